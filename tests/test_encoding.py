"""Token ids of a data set: the same in parallel, from the cache, and as data.encode_all() gives them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import builtin_model
import data
import encoding
from records import ReadReport
from tokenization import Tokenizer
from validation import DataError

TEXTS = ["湖面海拔一千二百米", "竹编灯笼", "四月到六月是观鸟的好时候", "一盏灯笼大约要编两天"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(builtin_model.build())


def examples(count, bad=()):
    """Question prompts, some without a target; those in `bad` cannot be cut to the length."""
    rows = []
    for i in range(count):
        prompt = data.question_prompt(
            {"answer": TEXTS[i % 4] * (40 if i in bad else 1), "context": TEXTS[i % 3] * (i % 7)}
        )
        rows.append(data.Example(**prompt, target=None if i % 5 == 4 else TEXTS[i % 2], place=f"file:{i + 1}"))
    return rows


def assert_same_rows(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.example == other.example
        for name in ("source_ids", "target_ids"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b))
        assert (one.full_source_length, one.full_target_length) == (other.full_source_length, other.full_target_length)


@pytest.mark.parametrize("part", [3, 1000])
def test_rows_equal_those_of_encode_all_in_parallel_and_from_the_cache(tokenizer, tmp_path, monkeypatch, part):
    monkeypatch.setattr(encoding, "PART", part)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rows = examples(10)
    expected = data.encode_all(rows, tokenizer, 50, 6)
    settings = {"cache_dir": tmp_path, "progress": False}
    assert_same_rows(encoding.encode_dataset(rows, tokenizer, 50, 6, **settings), expected)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    monkeypatch.setattr(encoding, "encode_in_parts", None)  # whoever encodes again now fails
    moved = [dataclasses.replace(row, place="elsewhere:1") for row in rows]
    assert_same_rows(
        encoding.encode_dataset(moved, tokenizer, 50, 6, **settings), data.encode_all(moved, tokenizer, 50, 6)
    )


@pytest.mark.parametrize("part", [2, 1000])
def test_bad_rows_are_told_or_left_out_as_by_encode_all(tokenizer, tmp_path, monkeypatch, part):
    monkeypatch.setattr(encoding, "PART", part)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rows, report = examples(6, bad=(2, 5)), ReadReport("file")
    with pytest.raises(DataError, match="file:3: ") as error:
        encoding.encode_dataset(rows, tokenizer, 50, 6, cache_dir=tmp_path, progress=False)
    kept = encoding.encode_dataset(rows, tokenizer, 50, 6, "skip", report, cache_dir=tmp_path, progress=False)
    assert [row.example for row in kept] == [rows[i] for i in (0, 1, 3, 4)]
    assert report.skipped == {error.value.reason: 2}
    assert not list(tmp_path.rglob("*.npz")), "what was left out has to be told in every run"


@given(
    field=st.sampled_from(["before", "context", "after", "keep", "target"]),
    texts=st.lists(st.text(max_size=4), min_size=2, max_size=2, unique=True),
)
def test_other_texts_or_lengths_have_other_hashes(tokenizer, field, texts):
    example = data.Example("a", "b", "c", keep="d", target="e")
    hashes = [
        encoding.fingerprint([dataclasses.replace(example, **{field: text})], tokenizer, *lengths)
        for text in texts
        for lengths in ((50, 6), (30, 7), (306, 1))
    ]
    assert len(set(hashes)) == len(hashes)


def test_a_row_is_spelled_with_its_special_pieces(tokenizer):
    text, target = (tokenizer.decode(tokenizer.encode(text)) for text in ("海拔一千二百米", "四月"))
    (row,) = data.encode_all([data.Example("", text, "", target=target)], tokenizer, 50, 60)
    assert tokenizer.spelled(row.source_ids) == f"[CLS]{text}[gMASK]<|endoftext|>"
    assert tokenizer.spelled(row.target_ids) == f"{target}<|endofpiece|>"
