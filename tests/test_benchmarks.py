"""What benchmarks write: figures from measurements, BENCHMARKS.md from figures. To measure, `make bench`."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import measuring

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("bench_*.py"))


def test_a_figure_is_the_median_with_the_lowest_and_the_highest():
    assert str(measuring.Figure([3.0, 1.0, 2.26], 1)) == "2.3 (1.0–3.0)"
    assert str(measuring.Figure([5, 5])) == "5"
    assert str(measuring.Figure(0.5, 3)) == "0.500"
    assert measuring.Figure([1, 2, 4], 2).as_json() == {"median": 2.0, "low": 1.0, "high": 4.0}


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=9))
def test_a_figure_lies_between_its_values(values):
    figure = measuring.Figure(values, 3)
    assert min(values) == figure.low <= figure.median <= figure.high == max(values)


def test_rows_whose_figures_are_missing_are_left_out():
    template = "\n| a | {one} |\n| b | {one} | {two} |\n\nend\n"
    assert measuring.filled(template, {"one": measuring.Figure(1)}) == "| a | 1 |\n\nend"


def test_a_report_takes_the_place_of_the_one_before_and_of_nothing_else(tmp_path, monkeypatch, capsys):
    mark, end = "<!-- figures: bench_{}.py -->", "<!-- end of figures -->"
    document = tmp_path / "BENCHMARKS.md"
    document.write_text(f"top\n\n{mark.format('a')}\n\nold\n\n{end}\n\nmiddle\n\n{mark.format('b')}\n\n{end}\n\nlast\n")
    monkeypatch.setattr(measuring, "DOCUMENT", document)
    arguments = measuring.parser("").parse_args(["--write", "--json"])
    for values in ([1.0, 2.0, 4.0], [7.0]):
        results = {"x": measuring.Figure(values, 1), "n": 3}
        measuring.report(results, arguments, "benchmarks/bench_a.py", "| x | {x} |")
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert said == {"x": {"median": np.median(values), "low": min(values), "high": max(values)}, "n": 3}
    text = document.read_text()
    assert "| x | 7.0 |" in text
    assert "old" not in text
    assert "(1.0–4.0)" not in text
    assert re.sub(r"Measured on \d{4}-\d\d-\d\d: .+; Python [\d.]+\.\n", "WHEN\n", text) == (
        f"top\n\n{mark.format('a')}\n\nWHEN\n\n| x | 7.0 |\n\n{end}\n\nmiddle\n\n{mark.format('b')}\n\n{end}\n\nlast\n"
    )
    with pytest.raises(ValueError, match=r"no place for bench_c.py"):
        measuring.report(results, arguments, "bench_c.py", "")


@pytest.fixture(scope="module")
def templates():
    """{benchmark: its REPORT}, asked for in a process of its own: importing one sets what paddle reads."""
    code = "import importlib, json, sys; sys.path.insert(0, 'benchmarks')\n"
    code += "parts = {name: importlib.import_module(name[:-3]) for name in sys.argv[1:]}\n"
    code += "reports = {name: b.tables({}) if hasattr(b, 'tables') else b.REPORT for name, b in parts.items()}\n"
    code += "print(json.dumps(reports))"
    command = [sys.executable, "-c", code, *SCRIPTS]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_benchmark_has_its_figures_in_the_document_in_the_form_that_it_writes_now(script, templates):
    text = (ROOT / "BENCHMARKS.md").read_text(encoding="utf8")
    assert f"    python benchmarks/{script} --write\n" in text
    block = text.partition(f"<!-- figures: {script} -->")[2].partition("<!-- end of figures -->")[0]
    assert re.match(r"\n\nMeasured on \d{4}-\d\d-\d\d: \d+ threads of ", block)
    written = {re.sub(r"-?\d.*", "", line) for line in block.splitlines()}
    for line in templates[script].strip().splitlines():
        assert re.sub(r"(-?\d|{).*", "", line) in written, line


def test_make_bench_runs_every_benchmark():
    listed = re.search(r"^BENCHMARKS = (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    # That one takes packages of others.
    assert sorted([*(f"bench_{part}.py" for part in listed), "bench_peers.py", "bench_fresh.py"]) == SCRIPTS
