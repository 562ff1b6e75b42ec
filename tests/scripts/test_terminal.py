"""What files and models say is shown, and no terminal or log obeys it."""

import contextlib
import json
import shutil
import struct

import pytest

import finetune_generation
import predict_generation
from glm import errors
from glm.inference import answers, interactive
from glm.inference.arguments import PromptArguments
from glm.weights import __main__, builtin_model
from tests.helpers.answered import answered
from tests.helpers.runs import SMALL

ORDER = "\x1b]0;owned\x07\x1b[2J\x9b1m\u2028\u202e"


def said_by(capfd, action, *arguments):
    """All that an action writes, without the orders that it must not repeat."""
    capfd.readouterr()
    with contextlib.suppress(SystemExit):
        action([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    said = captured.out + captured.err
    assert not set(ORDER) & set(said) - {"0", ";", "]", "[", "o", "w", "n", "e", "d", "2", "J", "1", "m"}
    return said


def test_the_name_of_a_weight(tmp_path, capfd):
    model = shutil.copytree(builtin_model.build(), tmp_path / "model")
    header = json.dumps({f"{ORDER}x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    said = said_by(capfd, __main__.main, "split", model, tmp_path / "shards", "--tensor_parallel_degree", 2)
    assert "error: " in said


@pytest.mark.parametrize("record", [{"context": "a", "answer": 5, ORDER: 1}, {"context": "a", ORDER: 1}, {ORDER: "a"}])
def test_fields_of_records(tmp_path, capfd, record):
    (tmp_path / "data.jsonl").write_text(json.dumps(record) + "\n", encoding="utf8")
    flags = ["--model_name_or_path", "glm-tiny-chinese", "--data_file", tmp_path / "data.jsonl", "--template", "qg"]
    assert "error: " in said_by(capfd, predict_generation.main, *flags)


def test_texts_in_the_log_of_a_run(tmp_path, capfd):
    record = {"context": f"青湖{ORDER}在山脚下。", "answer": "山脚下", "question": f"在{ORDER}哪里？"}
    (tmp_path / "data.jsonl").write_text((json.dumps(record) + "\n") * 4, encoding="utf8")
    flags = [*SMALL, "--task_name", tmp_path / "data.jsonl", "--do_train", "--max_steps", "1", "--do_eval"]
    said = said_by(capfd, finetune_generation.main, *flags, "--num_beams", "1", "--output_dir", tmp_path / "out")
    assert "\\x1b]0;owned" in said


def test_answers_on_the_screen_are_the_same_json(capsys):
    fields = {"context": f"问{ORDER}"}
    answer = answered("", f"答\n{ORDER}", record=json.dumps(fields, ensure_ascii=False))
    answers.report_answers([answer], PromptArguments())
    (line,) = capsys.readouterr().out.splitlines()
    assert not set("\x1b\x07\x9b\u2028\u202e") & set(line)
    assert json.loads(line) == {**fields, "prediction": f"答\n{ORDER}"}


def test_a_conversation(capsys):
    interactive.show(f"一\n{ORDER}")
    assert capsys.readouterr().out == "一\n\\x1b]0;owned\\x07\\x1b[2J\\x9b1m\\u2028\\u202e"


@pytest.mark.parametrize("kind", [errors.UserError, errors.RunError])
def test_errors_are_one_printable_line(kind):
    assert str(kind(f"a\nb\r{ORDER}\ud800")) == "a b \\x1b]0;owned\\x07\\x1b[2J\\x9b1m \\u202e\\ud800"
