"""Token ids of a data set: the same in parallel, from the cache, and as examples.encode_all() gives them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.data import encoded_files, examples, selections, templates
from glm.data.records import Part, ReadReport
from glm.data.selections import Selection
from glm.data.tokenization import Tokenizer
from glm.data.validation import DataError
from glm.weights import builtin_model

TEXTS = ["湖面海拔一千二百米", "竹编灯笼", "四月到六月是观鸟的好时候", "一盏灯笼大约要编两天"]
LENGTHS = 50, 6


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(builtin_model.build())


@pytest.fixture(params=[3, 1000], ids=["parallel", "single"], autouse=True)
def part_size(request, monkeypatch):
    monkeypatch.setattr(encoded_files, "PART", request.param)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def write_records(path, count, bad=()):
    """Questions to generate; those in `bad` cannot be cut to the length."""
    lines = []
    for i in range(count):
        answer = TEXTS[i % 4] * (40 if i in bad else 1)
        record = {"answer": answer, "context": TEXTS[i % 3] * (1 + i % 7), "question": TEXTS[i % 2]}
        lines.append(json.dumps(record, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf8")
    return Selection(path, "qg")


def assert_same_rows(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip([actual[i] for i in range(len(actual))], expected, strict=True):
        assert one.example.place == other.example.place
        for name in ("source_ids", "target_ids"):
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
        assert (one.full_source_length, one.full_target_length) == (other.full_source_length, other.full_target_length)


def test_rows_on_disk_and_in_memory_equal_those_of_encode_all(tokenizer, tmp_path, monkeypatch):
    selection = write_records(tmp_path / "data.json", 20)
    expected = examples.encode_all(selections.load_examples(selection.path, "qg")[0], tokenizer, *LENGTHS)
    stored = encoded_files.encode_file(selection, tokenizer, *LENGTHS, cache_dir=tmp_path, progress=False)
    assert_same_rows(stored, expected)
    np.testing.assert_array_equal(examples.lengths_of(stored), examples.lengths_of(expected))
    texts, report = encoded_files.encode_texts(selection, tokenizer, *LENGTHS, progress=False)
    assert_same_rows(texts, expected)
    assert [(row.example, row.source) for row in texts] == [(row.example, row.source) for row in expected]
    assert any(row.source_cut for row in texts)
    assert stored.report == report

    monkeypatch.setattr(encoded_files, "encoded_stream", None)  # whoever encodes again now fails
    moved = replace(selection, path=selection.path.rename(tmp_path / "moved.json"))
    again = encoded_files.encode_file(moved, tokenizer, *LENGTHS, cache_dir=tmp_path, progress=False)
    assert np.array_equal(again[19].source_ids, expected[19].source_ids)
    assert again[19].example.place == f"{moved.path}:20"


def test_bad_rows_are_told_or_left_out_as_by_encode_all_in_every_run(tokenizer, tmp_path):
    selection = write_records(tmp_path / "data.json", 8, bad=(2, 5))
    with pytest.raises(DataError, match="data.json:3: ") as error:
        encoded_files.encode_file(selection, tokenizer, *LENGTHS, cache_dir=tmp_path, progress=False)
    assert list((tmp_path / "encoded").iterdir()) == []
    skipping = replace(selection, on_bad_data="skip")
    for _ in range(2):
        kept = encoded_files.encode_file(skipping, tokenizer, *LENGTHS, cache_dir=tmp_path, progress=False)
        assert [kept[i].example.place for i in range(len(kept))] == [
            f"{selection.path}:{i}" for i in (1, 2, 4, 5, 7, 8)
        ]
        assert kept.report.skipped == {error.value.reason: 2}
        assert kept.report.read == 8
        assert "data.json:3: " in kept.report.summary()


def test_reading_is_never_far_ahead_of_what_is_taken(tokenizer, monkeypatch):
    """Of a set of millions, only a few parts are in memory."""
    monkeypatch.setattr(encoded_files, "PART", 10)
    read = []

    def examples():
        for number in range(1000):
            read.append(number)
            yield templates.Example("", TEXTS[number % 4], "", target="好", place=f"file:{number}")

    stream = encoded_files.encoded_stream(examples(), tokenizer, *LENGTHS, progress=False)
    next(stream)
    assert len(read) <= 10 * (2 + 2 * encoded_files.AHEAD)
    assert sum(1 for _ in stream) == 999


@given(
    change=st.sampled_from(
        [
            {"template": "text"},
            {"need_target": False},
            {"on_bad_data": "skip"},
            {"max_samples": 2},
            {"part": Part(frozenset([1]))},
            {"part": Part(frozenset([1]), others=True)},
            {"part": Part(frozenset([0]))},
            {"with_history": True},
        ]
    ),
    lengths=st.sampled_from([(50, 6), (30, 7), (306, 1)]),
)
def test_whatever_ids_depend_on_changes_the_hash(tokenizer, tmp_path_factory, change, lengths):
    selection = write_records(tmp_path_factory.mktemp("data") / "data.json", 3)
    hashes = [encoded_files.fingerprint(replace(selection, **change), tokenizer, *lengths)]
    hashes += [encoded_files.fingerprint(selection, tokenizer, *pair) for pair in (lengths, (51, 6))]
    write_records(selection.path, 4)
    hashes.append(encoded_files.fingerprint(selection, tokenizer, *lengths))
    assert len(set(hashes)) == len(hashes)


def test_a_row_is_spelled_with_its_special_pieces(tokenizer):
    text, target = (tokenizer.decode(tokenizer.encode(text)) for text in ("海拔一千二百米", "四月"))
    (row,) = examples.encode_all([templates.Example("", text, "", target=target)], tokenizer, 50, 60)
    assert tokenizer.spelled(row.source_ids) == f"[CLS]{text}[gMASK]<|endoftext|>"
    assert tokenizer.spelled(row.target_ids) == f"{target}<|endofpiece|>"


def test_what_was_skipped_in_reading_is_counted_with_what_could_not_be_encoded(tokenizer, tmp_path):
    selection = replace(write_records(tmp_path / "data.json", 4, bad=(1,)), on_bad_data="skip")
    with open(selection.path, "a", encoding="utf8") as file:
        file.write("{\n\n")
    _, report = encoded_files.encode_texts(selection, tokenizer, *LENGTHS, progress=False)
    assert isinstance(report, ReadReport)
    assert (report.read, report.blank, report.skipped.total()) == (4, 1, 2)


@pytest.mark.parametrize("kind", ["json", "pair"])
def test_what_was_skipped_is_told_of_the_file_where_it_is_now(tokenizer, tmp_path, kind):
    """What is in the cache was read elsewhere."""

    def written(folder):
        folder.mkdir()
        if kind == "json":
            (folder / "data.json").write_text('{"context": "湖", "answer": "", "question": "山"}\n', encoding="utf8")
            with open(folder / "data.json", "a", encoding="utf8") as file:
                file.write(json.dumps({"context": TEXTS[0], "answer": TEXTS[1], "question": TEXTS[2]}))
            return Selection(folder / "data.json", "qg", on_bad_data="skip")
        (folder / "data.source").write_text(f"{TEXTS[0]}\n{TEXTS[1]}\n", encoding="utf8")
        (folder / "data.target").write_text(f"\n{TEXTS[2]}\n", encoding="utf8")
        return Selection(folder / "data.source", "qg", on_bad_data="skip")

    told = []
    for folder in (tmp_path / "before", tmp_path / "now"):
        rows = encoded_files.encode_file(
            written(folder), tokenizer, *LENGTHS, cache_dir=tmp_path / "cache", progress=False
        )
        told.append(rows.report.summary())
    assert "1 bad records skipped" in told[0]
    assert str(tmp_path / "before") in told[0]
    assert told[1] == told[0].replace(str(tmp_path / "before"), str(tmp_path / "now"))
