"""Lines longer than a limit are refused by their place, or passed over, and never in memory."""

import json
import tracemalloc

import pytest

from glm import metrics
from glm.data.records import read_records, read_texts
from glm.data.validation import DataError, Fields
from glm.files import lines

FIELDS = Fields(required=("source",))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(lines.LIMIT, "bytes", 40)


def record(size):
    """A line of so many bytes."""
    empty = len(json.dumps({"source": ""}))
    return json.dumps({"source": "a" * (size - empty)})


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_may_have_as_many_bytes_as_the_limit(tmp_path, end):
    path = tmp_path / "data.jsonl"
    path.write_text(record(40) + end, encoding="utf8")
    assert read_records(path, FIELDS)[1].read == 1


@pytest.mark.parametrize("size", [42, 1000])
def test_a_longer_one_is_refused_with_its_place_and_the_flag_that_raises_the_limit(tmp_path, size):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([record(30), record(size), record(31)]), encoding="utf8")
    with pytest.raises(DataError) as told:
        read_records(path, FIELDS)
    assert str(told.value).startswith(f"{path}:2: has more than 40 bytes; ")
    assert "--max_record_bytes" in str(told.value)
    found, report = read_records(path, FIELDS, "skip")
    assert [one.line for one in found] == [1, 3]
    assert report.skipped == {"too long": 1}


def test_a_long_item_of_an_array_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("glm.files.json_array.BLOCK", 16)
    path = tmp_path / "data.json"
    path.write_text(f"[{record(30)},\n{record(1000)}]", encoding="utf8")
    with pytest.raises(DataError, match=r"data.json:2: has more than 40 bytes; .*--max_record_bytes"):
        read_records(path, FIELDS)


def test_pairs_and_texts_have_the_limit_too(tmp_path):
    (tmp_path / "a.source").write_text("a\n" + "b" * 50 + "\n", encoding="utf8")
    (tmp_path / "a.target").write_text("a\nb\n", encoding="utf8")
    with pytest.raises(DataError, match="a.source:2: has more than 40 bytes"):
        read_records(tmp_path / "a.source", Fields(required=("source", "target")))
    (tmp_path / "a.txt").write_text("a\n" + "b" * 50 + "\n", encoding="utf8")
    with pytest.raises(DataError, match="a.txt:2: has more than 40 bytes"):
        read_texts(tmp_path / "a.txt")


def test_memory_is_that_of_the_limit(tmp_path, monkeypatch):
    monkeypatch.setitem(lines.LIMIT, "bytes", 2**16)
    monkeypatch.setattr("glm.files.lines.BLOCK", 2**16)
    path = tmp_path / "data.jsonl"
    with open(path, "w", encoding="utf8") as file:
        for _ in range(2**8):
            file.write("x" * 2**16)
        file.write('\n{"source": "a"}\n')
    tracemalloc.start()
    try:
        found, report = read_records(path, FIELDS, "skip")
        # What a file begins with is looked at, a mebibyte of it.
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert [one.line for one in found] == [2]
    assert report.skipped == {"too long": 1}


@pytest.mark.parametrize(
    "line", ['{"prediction": "a", "target": ' + "[" * 100_000, '{"prediction": ' + "9" * 5000 + "}"]
)
def test_predictions_of_anything_are_refused_in_one_line(tmp_path, capsys, line):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"prediction": "a", "target": "a"}\n' + line + "\n", encoding="utf8")
    assert metrics.main([str(path)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{path}:2: ")


def test_a_prediction_of_any_length_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(metrics, "LONGEST_LINE", 100)
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"prediction": "a" * 200, "target": ""}) + "\n", encoding="utf8")
    assert metrics.main([str(path)]) == 2
    assert f"{path}:1: more than 100 bytes" in capsys.readouterr().err
