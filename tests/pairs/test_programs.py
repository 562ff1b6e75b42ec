"""generate_pairs.py by exported programs: the pairs that the model makes."""

import subprocess
import sys

import pytest

import export_generation_model
import generate_pairs
from tests.helpers import ROOT
from tests.helpers.runs import read_lines
from tests.pairs.test_pipeline import BRIEF, DEMO

SEARCHES = {
    "propose": ["--num_beams", "3", "--scores", "True", "--within_source", "True"],
    "ask": ["--scores", "True"],
    "answer": ["--num_beams", "2", "--scores", "True", "--within_source", "True"],
}


def export(model, target, *flags):
    export_generation_model.main(["--model_name_or_path", str(model), "--output_path", str(target), *flags])


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    path = tmp_path_factory.mktemp("document") / "a.txt"
    path.write_text("\n".join(record["context"] for record in read_lines(DEMO)[:12]), encoding="utf8")
    return path


def made(document, target, *flags):
    generate_pairs.main(["--data_file", str(document), "--output_file", str(target), "--keep", "all", *BRIEF, *flags])
    return read_lines(target)


def without_scores(pairs):
    """Pairs without what may differ in its last digit."""
    return [{name: value for name, value in pair.items() if not name.endswith("log_p")} for pair in pairs]


@pytest.mark.parametrize("form", ["onnx", "paddle"])
def test_programs_make_the_pairs_of_the_model(of_tasks, document, form, tmp_path):
    wanted = made(document, tmp_path / "model.jsonl", "--model_name_or_path", str(of_tasks), "--engine", "python")
    assert len(wanted) > 5
    if form == "onnx":
        export(of_tasks, tmp_path / "programs" / "glm", "--format", "onnx")
    else:
        for name, flags in SEARCHES.items():
            export(of_tasks, tmp_path / "programs" / name, *flags)
    # In a process of its own: FastDeploy and paddle in one crash.
    flags = ["--data_file", str(document), "--output_file", str(tmp_path / "programs.jsonl"), "--keep", "all", *BRIEF]
    command = [sys.executable, str(ROOT / "generate_pairs.py"), *flags, "--model_path", str(tmp_path / "programs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = read_lines(tmp_path / "programs.jsonl")
    assert without_scores(found) == without_scores(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["question_log_p"] == pytest.approx(theirs["question_log_p"], abs=0.02)
        assert ours["answer_log_p"] == pytest.approx(theirs["answer_log_p"], abs=0.02)


def refused(document, capfd, *flags):
    """What a run that is refused says, in one line."""
    with pytest.raises(SystemExit) as ended:
        made(document, document.with_name("none.jsonl"), *flags)
    assert ended.value.code == 2
    return capfd.readouterr().err.splitlines()[-1]


def test_a_program_that_is_missing_is_told_with_what_exports_it(of_tasks, document, tmp_path, capfd):
    export(of_tasks, tmp_path / "ask", *SEARCHES["ask"])
    told = refused(document, capfd, "--model_path", str(tmp_path))
    assert "has no program to propose with; export one with --num_beams 3 --scores True --within_source True" in told


def test_of_several_onnx_programs_one_is_to_be_named(of_tasks, document, tmp_path, capfd):
    for name in ("one", "two"):
        export(of_tasks, tmp_path / name, "--format", "onnx")
    assert "several ONNX programs; give --model_prefix" in refused(document, capfd, "--model_path", str(tmp_path))
    flags = ["--model_path", str(tmp_path), "--model_prefix", "two"]
    assert made(document, tmp_path / "pairs.jsonl", *flags)


def test_a_gpu_that_is_not_there_is_refused(of_tasks, document, tmp_path, capfd):
    export(of_tasks, tmp_path / "glm", "--format", "onnx")
    told = refused(document, capfd, "--model_path", str(tmp_path), "--device", "gpu")
    assert "--device gpu: ONNX programs run on CPU only" in told
