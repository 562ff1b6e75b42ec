"""The stacks: which is installed is asked in one place, and each difference stands in its table."""

import dataclasses
import re

import paddle
import pytest

from glm import stacks
from glm.decoding.generation_config import GenerationConfig
from glm.export import inspection, program
from glm.export.program import ProgramError
from glm.export.runners import check_combination
from tests.export.test_program import Tokenizer
from tests.helpers import ROOT, models

VERSION_QUESTION = re.compile(r"__version__|metadata\.version|version\.(major|full_version|parse)|paddle\.version")


def test_the_stack_is_that_of_the_installed_paddle():
    assert stacks.current() is (stacks.PADDLE3 if paddle.__version__.startswith("3.") else stacks.REFERENCE)


def test_nothing_else_asks_which_version_is_installed():
    """Versions are told elsewhere, not decided by."""
    asking = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in [*ROOT.glob("*.py"), *ROOT.glob("glm/**/*.py"), *ROOT.glob("benchmarks/*.py")]
        for line in path.read_text(encoding="utf8").splitlines()
        if VERSION_QUESTION.search(line) and path.name != "stacks.py"
    ]
    assert [line for line in asking if re.search(r"\bif\b|[<>]=?|==|startswith", line)] == []


def test_every_difference_is_in_the_table_with_its_reason():
    for field in dataclasses.fields(stacks.Stack):
        sides = [str(getattr(stack, field.name)) for stack in (stacks.REFERENCE, stacks.PADDLE3)]
        if field.name != "name":
            assert sides[0] != sides[1]
            (row,) = re.findall(rf"^{field.name} .*$", stacks.__doc__, re.MULTILINE)
            assert re.match(rf"{field.name} +{sides[0]}( \(\S+\))? +{sides[1]}( \(\S+\))? +\w+", row)


def described(directory, format):
    """A program.Program that says it is of a format."""
    config = GenerationConfig()
    return program.Program(directory, "glm", config, models.special_ids(), "float32", 129, 160, format)


@pytest.mark.parametrize(
    ("here", "format", "runtime", "backend", "told"),
    [
        (stacks.REFERENCE, "pir", "paddle", "paddle", "paddle 2.6 cannot read; run it on the paddle3 stack"),
        (stacks.REFERENCE, "pir", "fastdeploy", "paddle", "--runtime fastdeploy cannot read"),
        (stacks.PADDLE3, "pir", "fastdeploy", "paddle", "run it by --runtime paddle"),
        (stacks.PADDLE3, "pir", "paddle", "onednn", "leave it out"),
        (stacks.PADDLE3, "pir", "onnx", "paddle", "glm.json is none; export it with --format onnx"),
        (stacks.PADDLE3, "pir", "paddle", "paddle", None),
        (stacks.PADDLE3, "paddle", "paddle", "onednn", None),
        (stacks.PADDLE3, "paddle", "paddle", "paddle", None),
        (stacks.REFERENCE, "paddle", "paddle", "onednn", None),
    ],
)
def test_a_program_that_a_runtime_cannot_read_is_refused_with_what_reads_it(
    tmp_path, monkeypatch, here, format, runtime, backend, told
):
    monkeypatch.setattr(stacks, "current", lambda: here)
    if told is None:
        check_combination(described(tmp_path, format), runtime, "cpu", backend)
        return
    with pytest.raises(ProgramError) as refused:
        check_combination(described(tmp_path, format), runtime, "cpu", backend)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_program_says_which_format_it_has(tmp_path):
    program.save(models.make_model(), Tokenizer(), GenerationConfig(), tmp_path, "glm")
    found = program.describe(tmp_path, "glm")
    assert found.format == stacks.current().program_format
    assert [path.is_file() for path in found.files] == [True, True]
    inspection.check(found)


def test_fastdeploy_is_not_chosen_for_what_it_cannot_read(tmp_path, monkeypatch):
    from glm.export import runners

    monkeypatch.setattr(runners.importlib.util, "find_spec", lambda name: True)
    assert runners.can_run("fastdeploy", described(tmp_path, "paddle"))
    assert not runners.can_run("fastdeploy", described(tmp_path, "pir"))
    assert runners.can_run("paddle", described(tmp_path, "pir"))
