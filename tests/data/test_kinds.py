"""What a file is, is decided by its content; what could be two things is refused."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

import data
from glm.data import kinds, selections
from glm.data.validation import DataError
from glm.errors import UserError
from glm.inference.arguments import PromptArguments
from tests.helpers.answered import prompts_of

LINES = [{"context": "长桥建于一九九八年。", "answer": "一九九八年"}, {"context": "钟楼高三十米。", "answer": "三十米"}]
JSON_LINES = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES)
ARRAY = json.dumps(LINES, ensure_ascii=False, indent=1)
BOM = "\ufeff"


def sources(path, **settings):
    found, _ = prompts_of(PromptArguments(data_file=str(path), **settings))
    return [example.source for example in found]


@pytest.mark.parametrize(
    "name", ["data.json", "data.jsonl", "data.ndjson", "data.txt", "data", "data.JSON", "data.log"]
)
@pytest.mark.parametrize("content", [JSON_LINES, BOM + JSON_LINES, "\n \n" + JSON_LINES, ARRAY, BOM + ARRAY])
def test_json_is_json_whatever_it_is_called(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf8")
    assert [source for source in sources(tmp_path / name) if "一九九八年" in source]
    assert len(sources(tmp_path / name)) == 2
    assert sources(tmp_path / name)[0].startswith("答案：")


@pytest.mark.parametrize("content", [JSON_LINES, BOM + JSON_LINES, ARRAY])
def test_json_on_standard_input_is_json(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    found, _ = prompts_of(PromptArguments(data_file="-"))
    assert [example.source[:3] for example in found] == ["答案："] * 2


@pytest.mark.parametrize("text", ["今天天气", "{甲}说：你好", "[1] 参考文献", '"引号"', "[一]", "5", "null"])
def test_text_is_text(tmp_path, text):
    (tmp_path / "data.txt").write_text(f"{text}\n{text}\n", encoding="utf8")
    assert sources(tmp_path / "data.txt") == [text, text]


def test_lines_of_text_may_be_instructions(tmp_path):
    (tmp_path / "data.txt").write_text("写一首诗\n讲个故事\n", encoding="utf8")
    assert sources(tmp_path / "data.txt", template="instruction") == [
        "Human:写一首诗\nAssistant:",
        "Human:讲个故事\nAssistant:",
    ]
    with pytest.raises(UserError, match="is plain text, which has no context"):
        sources(tmp_path / "data.txt", template="qg")


def test_what_begins_like_json_and_is_none_is_refused(tmp_path):
    (tmp_path / "data.txt").write_text('{"context": "甲\n', encoding="utf8")
    with pytest.raises(DataError, match="begins like JSON, and its first line is none"):
        sources(tmp_path / "data.txt")


def test_what_a_file_is_taken_for_is_told(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(JSON_LINES, encoding="utf8")
    (tmp_path / "b.txt").write_text("甲\n", encoding="utf8")
    for name in ("a.txt", "b.txt"):
        sources(tmp_path / name)
    assert "a.txt: read as JSON, which it is by its content" in (told := capsys.readouterr().err)
    assert "b.txt: read as plain text, one prompt a line" in told


@pytest.mark.parametrize("name", kinds.DEV_NAMES)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson"])
def test_records_for_evaluation_are_found_under_all_their_names(tmp_path, name, suffix):
    (tmp_path / "train.json").write_text(JSON_LINES, encoding="utf8")
    (tmp_path / f"{name}{suffix}").write_text(JSON_LINES, encoding="utf8")
    assert data.splits_of(tmp_path, True, True) == {
        "train": tmp_path / "train.json",
        "dev": tmp_path / f"{name}{suffix}",
    }


def test_of_two_sets_for_evaluation_none_is_chosen(tmp_path):
    for name in ("train.json", "dev.json", "validation.json"):
        (tmp_path / name).write_text(JSON_LINES, encoding="utf8")
    with pytest.raises(DataError, match=r"dev\.json and validation\.json are both there"):
        data.splits_of(tmp_path, True, True)


@pytest.mark.parametrize("name", ["test.json", "Test.jsonl", "dev.json", "valid.json"])
def test_what_is_not_meant_to_be_trained_on_is_not(tmp_path, name):
    (tmp_path / name).write_text(JSON_LINES, encoding="utf8")
    for place in (tmp_path / name, tmp_path):
        if place.is_dir() and name.split(".")[0].lower() in kinds.DEV_NAMES:
            continue
        with pytest.raises(UserError, match="would be trained on"):
            data.splits_of(place, True, False)
    assert data.splits_of(tmp_path / name, False, True)["dev"] == tmp_path / name


def test_a_selection_reads_json_under_any_name(tmp_path):
    (tmp_path / "data.txt").write_text(JSON_LINES.replace('"answer"', '"question": "何时", "answer"'), encoding="utf8")
    found, _ = selections.load_examples(tmp_path / "data.txt", "qg")
    assert [example.target for example in found] == ["何时", "何时"]
