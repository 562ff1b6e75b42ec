"""Whatever the batches are, every prompt gets its own answer, and the output file holds them in order."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data
import inference
from arguments import PromptArguments
from inference import Answer
from records import ReadReport

EOS = 9


class SpellingTokenizer:
    """Decodes ids to the text of their list."""

    eos_id = EOS

    def decode(self, ids):
        """The ids as text."""
        return " ".join(str(int(i)) for i in ids)


def encoded_prompt(number, length, target=None):
    """An encoded prompt of this length whose first id is its number."""
    example = data.Example("", f"prompt {number}", "", target=target)
    ids = np.array([100 + number] + [1] * (length - 1), np.int32)
    return data.Encoded(example, ids, None, length, 0)


@given(st.lists(st.integers(2, 12), max_size=20), st.integers(1, 25))
def test_every_prompt_gets_its_own_answer_in_the_given_order(lengths, batch_size):
    prompts = [encoded_prompt(number, length, f"target {number}") for number, length in enumerate(lengths)]
    batches = []

    def run_batch(arrays, row_ids):
        """Answer each row by its first id, its row number and its length."""
        batches.append(arrays)
        return np.stack([arrays["input_ids"][:, 0], row_ids, arrays["source_mask"].sum(1).astype(int)], axis=1)

    answers = inference.answer_all(prompts, run_batch, SpellingTokenizer(), batch_size, progress=False)
    assert answers == [
        Answer(f"prompt {i}", f"{100 + i} {i} {length}", f"target {i}") for i, length in enumerate(lengths)
    ]
    assert [len(arrays["input_ids"]) for arrays in batches] == [
        min(batch_size, len(lengths) - start) for start in range(0, len(lengths), batch_size)
    ]


@given(st.lists(st.integers(2, 12), min_size=1, max_size=20), st.integers(1, 8))
def test_batches_hold_similar_lengths_the_longest_first_and_little_padding(lengths, batch_size):
    prompts = [encoded_prompt(number, length) for number, length in enumerate(lengths)]
    seen = []

    def run_batch(arrays, row_ids):
        """Note the real lengths; answer nothing."""
        real = arrays["source_mask"].sum(1).astype(int)
        assert arrays["input_ids"].shape[1] == real.max()
        assert (arrays["input_ids"][arrays["source_mask"] == 0] == EOS).all()
        assert (arrays["mask_index"] == real - 2).all()
        seen.extend(real)
        return np.zeros((len(row_ids), 1), int)

    inference.answer_all(prompts, run_batch, SpellingTokenizer(), batch_size, progress=False)
    assert seen == sorted(lengths, reverse=True)


def test_a_runner_that_loses_rows_is_an_error():
    prompts = [encoded_prompt(number, 3) for number in range(3)]
    with pytest.raises(ValueError, match="shorter"):
        inference.answer_all(prompts, lambda arrays, rows: np.zeros((2, 1)), SpellingTokenizer(), 8, progress=False)


def test_progress_goes_to_stderr_and_only_if_asked(capsys):
    for progress in (False, True):
        inference.answer_all(
            [encoded_prompt(0, 3)], lambda arrays, rows: np.zeros((1, 1)), SpellingTokenizer(), 8, progress
        )
        captured = capsys.readouterr()
        assert captured.out == ""
        assert ("1/1" in captured.err) is progress


ANSWERS = [Answer("问\n一", "“答”"), Answer("two", "", "t"), Answer("three", "3", "")]
LINES = [
    '{"source": "问\\n一", "prediction": "“答”"}',
    '{"source": "two", "target": "t", "prediction": ""}',
    '{"source": "three", "target": "", "prediction": "3"}',
]


def test_answers_are_written_as_json_lines_with_targets_where_known(tmp_path):
    inference.write_answers(ANSWERS, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == ("\n".join(LINES) + "\n").encode("utf8")


def test_answers_are_shown_on_the_screen_without_a_file(capsys):
    inference.report_answers(ANSWERS, None)
    captured = capsys.readouterr()
    assert captured.out == "\n".join(LINES) + "\n"
    assert captured.err == ""


def test_what_was_left_out_is_told_beside_the_answers(tmp_path, capsys):
    bad = tmp_path / "in.jsonl"
    bad.write_text('{"context": "a", "answer": "b"}\nnonsense\n', encoding="utf8")
    arguments = PromptArguments(data_file=str(bad), on_bad_data="skip")
    examples, report = inference.load_prompts(arguments)
    assert [example.source for example in examples] == ["答案：b，上下文：a。在已知答案的前提下，问题："]
    inference.report_answers(ANSWERS, str(tmp_path / "out.jsonl"), report)
    captured = capsys.readouterr()
    assert captured.out == f"3 predictions written to {tmp_path / 'out.jsonl'}\n"
    assert captured.err == report.summary() + "\n"
    assert "1" in captured.err


def test_nothing_is_said_where_nothing_was_left_out(tmp_path, capsys):
    report = ReadReport("in.jsonl")
    inference.report_answers([], str(tmp_path / "out.jsonl"), report)
    assert capsys.readouterr() == (f"0 predictions written to {tmp_path / 'out.jsonl'}\n", "")
    assert json.loads("[" + (tmp_path / "out.jsonl").read_text() + "]") == []


def test_without_a_file_two_example_prompts_are_answered():
    examples, report = inference.load_prompts(SimpleNamespace(data_file=None))
    assert report is None
    assert len(examples) == 2
    for example, record in zip(examples, inference.EXAMPLE_RECORDS, strict=True):
        assert record["answer"] in record["context"]
        assert example.source == (f"答案：{record['answer']}，上下文：{record['context']}。在已知答案的前提下，问题：")
        assert example.target is None
