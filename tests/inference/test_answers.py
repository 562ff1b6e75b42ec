"""Whatever the batches are, every prompt gets its own answer, and the output file holds them in order."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.command_line import UsageError
from glm.data import examples, templates
from glm.data.lost_text import LostText
from glm.data.records import ReadReport
from glm.errors import UserError
from glm.inference import answers
from glm.inference.answer_lines import Answer, evaluation_line
from glm.inference.answers import scheduled
from glm.inference.arguments import PromptArguments
from glm.inference.prompts import EXAMPLE_RECORDS
from tests.helpers.answered import answered, prompts_of

EOS = 9


class SpellingTokenizer:
    """Decodes ids to the text of their list."""

    eos_id = EOS

    def decode(self, ids):
        """The ids as text."""
        return " ".join(str(int(i)) for i in ids)


def encoded_prompt(number, length, target=None):
    """An encoded prompt of this length whose first id is its number."""
    example = templates.Example("", f"prompt {number}", "", target=target)
    ids = np.array([100 + number] + [1] * (length - 1), np.int32)
    return examples.Encoded(example, ids, None, length, 0)


LIMITS = {"batch_size": st.integers(1, 9), "longest": st.integers(1, 40), "new_tokens": st.integers(0, 30)}


def tokens_of(batch, lengths, new_tokens):
    """Tokens that a batch takes once it is padded and decoded to the end."""
    return len(batch) * (max(lengths[row] for row in batch) + new_tokens)


@given(lengths=st.lists(st.integers(1, 40), max_size=60), **LIMITS)
def test_every_row_is_in_one_batch_and_the_longest_come_first(lengths, batch_size, longest, new_tokens):
    batches = scheduled(lengths, batch_size, longest, new_tokens)
    rows = [row for batch in batches for row in batch]
    assert all(batches)
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)


@given(lengths=st.lists(st.integers(1, 40), max_size=60), **LIMITS)
def test_a_batch_is_filled_up_to_its_tokens_and_not_beyond(lengths, batch_size, longest, new_tokens):
    budget = batch_size * (longest + new_tokens)
    batches = scheduled(lengths, batch_size, longest, new_tokens)
    for batch in batches:
        assert len(batch) == 1 or tokens_of(batch, lengths, new_tokens) <= budget
    for batch, following in zip(batches, batches[1:], strict=False):
        assert tokens_of([*batch, following[0]], lengths, new_tokens) > budget


@given(rows=st.integers(1, 60), **LIMITS)
def test_of_rows_of_full_length_a_batch_holds_the_batch_size(rows, batch_size, longest, new_tokens):
    batches = scheduled([longest] * rows, batch_size, longest, new_tokens)
    full, rest = divmod(rows, batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * full + [rest] * (rest > 0)


def test_shorter_rows_share_a_batch_in_greater_numbers():
    # 2 * (10 + 2) = 24 tokens: 2 rows of 10 + 2, then 3 of 6 + 2, then 6 of 2 + 2, then what is left.
    lengths = [2, 10, 6, 2, 2, 6, 2, 10, 2, 2, 6, 2]
    assert scheduled(lengths, 2, 10, 2) == [[1, 7], [2, 5, 10], [0, 3, 4, 6, 8, 9], [11]]
    # One row too long for 1 * (4 + 2) tokens is decoded all the same.
    assert scheduled([9, 1, 1], 1, 4, 2) == [[0], [1, 2]]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_a_mistake_told_in_one_line(batch_size):
    with pytest.raises(UserError, match=f"batch size is {batch_size}; it must be at least 1"):
        scheduled([3], batch_size, 3, 0)


def answer(prompts, run_batch, batch_size=8, src_length=12, new_tokens=3, progress=False):
    """answers.answer_all with limits that fit the prompts of these tests."""
    return answers.answer_all(
        prompts,
        run_batch,
        SpellingTokenizer(),
        batch_size=batch_size,
        src_length=src_length,
        new_tokens=new_tokens,
        progress=progress,
    )


@given(st.lists(st.integers(2, 12), max_size=20), st.integers(1, 25), st.integers(12, 30), st.integers(1, 9))
def test_every_prompt_gets_its_own_answer_in_the_given_order(lengths, batch_size, src_length, new):
    prompts = [encoded_prompt(number, length, f"target {number}") for number, length in enumerate(lengths)]
    batches = []

    def run_batch(arrays, row_ids):
        """Answer each row by its first id, its row number and its length."""
        batches.append(row_ids)
        return np.stack([arrays["input_ids"][:, 0], row_ids, arrays["source_mask"].sum(1).astype(int)], axis=1)

    assert answer(prompts, run_batch, batch_size, src_length, new) == [
        Answer(prompts[i], (f"{100 + i} {i} {length}",)) for i, length in enumerate(lengths)
    ]
    assert batches == scheduled(lengths, batch_size, src_length, new)


@given(st.lists(st.integers(2, 12), min_size=1, max_size=20), st.integers(1, 8))
def test_batches_are_padded_to_their_longest_prompt_only(lengths, batch_size):
    prompts = [encoded_prompt(number, length) for number, length in enumerate(lengths)]

    def run_batch(arrays, row_ids):
        """Compare the arrays with the real lengths; answer nothing."""
        real = arrays["source_mask"].sum(1).astype(int)
        assert real.tolist() == [lengths[row] for row in row_ids]
        assert arrays["input_ids"].shape[1] == real.max()
        assert (arrays["input_ids"][arrays["source_mask"] == 0] == EOS).all()
        assert (arrays["mask_index"] == real - 2).all()
        return np.zeros((len(row_ids), 1), int)

    assert len(answer(prompts, run_batch, batch_size)) == len(lengths)


def test_a_runner_that_loses_rows_is_an_error():
    prompts = [encoded_prompt(number, 3) for number in range(3)]
    with pytest.raises(ValueError, match="shorter"):
        answer(prompts, lambda arrays, rows: np.zeros((2, 1)))


def test_progress_goes_to_stderr_and_only_if_asked(capsys):
    for progress in (False, True):
        answer([encoded_prompt(0, 3)], lambda arrays, rows: np.zeros((1, 1)), progress=progress)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert ("1/1" in captured.err) is progress


ANSWERS = [
    answered("prompt 1", "“答”", record='{"id":1.0, "context": "问\\n一"}'),
    answered("prompt 2", "", record='{"prediction": "old", "answer": null}', target="t"),
    answered("prompt 3", "3", "4", record="{}", target=""),
]
LINES = {
    "records": [
        '{"id":1.0, "context": "问\\n一", "prediction": "“答”"}',
        '{"answer": null, "prediction": ""}',
        '{"prediction": "3", "predictions": ["3", "4"]}',
    ],
    "with_source": [
        '{"id":1.0, "context": "问\\n一", "source": "prompt 1", "prediction": "“答”"}',
        '{"answer": null, "source": "prompt 2", "prediction": ""}',
        '{"source": "prompt 3", "prediction": "3", "predictions": ["3", "4"]}',
    ],
    "only_predictions": [
        '{"source": "prompt 1", "prediction": "“答”"}',
        '{"source": "prompt 2", "target": "t", "prediction": ""}',
        '{"source": "prompt 3", "target": "", "prediction": "3", "predictions": ["3", "4"]}',
    ],
}
REPLACED = "the new fields have replaced those that records had already: 'prediction' (1 of 3 records)\n"


def arguments_of(layout, output_file=None):
    """PromptArguments of a layout of LINES."""
    flags = {} if layout == "records" else {layout: True}
    return PromptArguments(output_file=output_file and str(output_file), **flags)


@pytest.mark.parametrize("layout", LINES)
def test_answers_are_lines_of_their_records_or_of_what_is_asked_for(tmp_path, capsys, layout):
    answers.report_answers(ANSWERS, arguments_of(layout, tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_bytes() == ("\n".join(LINES[layout]) + "\n").encode("utf8")
    assert capsys.readouterr().err == ("" if layout == "only_predictions" else REPLACED)
    answers.report_answers(ANSWERS, arguments_of(layout))
    assert capsys.readouterr().out == "\n".join(LINES[layout]) + "\n"


def test_a_runs_own_line_has_the_records_id_if_there_is_one():
    ids = None, "q-1", 0, ["\ud800"]
    lines = [evaluation_line(answered("prompt 1", "p", target="t", record_id=record_id)) for record_id in ids]
    rest = '"source": "prompt 1", "target": "t", "prediction": "p"}'
    assert lines == ["{" + rest, '{"id": "q-1", ' + rest, '{"id": 0, ' + rest, '{"id": ["\\ud800"], ' + rest]


def test_flags_that_both_give_the_source_are_refused_together():
    with pytest.raises(UsageError, match="--only_predictions gives the source"):
        PromptArguments(with_source=True, only_predictions=True)


def test_what_was_left_out_is_told_beside_the_answers(tmp_path, capsys):
    bad = tmp_path / "in.jsonl"
    bad.write_text('{"context": "a", "answer": "b"}\nnonsense\n', encoding="utf8")
    arguments = PromptArguments(data_file=str(bad), on_bad_data="skip")
    examples, report = prompts_of(arguments)
    assert [example.source for example in examples] == ["答案：b，上下文：a。在已知答案的前提下，问题："]
    told = SimpleNamespace(report=report, lost=LostText())
    answers.report_answers(ANSWERS[:1], arguments_of("records", tmp_path / "out.jsonl"), told)
    captured = capsys.readouterr()
    assert captured.out == f"1 predictions written to {tmp_path / 'out.jsonl'}\n"
    assert captured.err == report.summary() + "\n"
    assert "1" in captured.err


def test_nothing_is_said_where_nothing_was_left_out(tmp_path, capsys):
    told = SimpleNamespace(report=ReadReport("in.jsonl"), lost=LostText())
    answers.report_answers([], arguments_of("records", tmp_path / "out.jsonl"), told)
    assert capsys.readouterr() == (f"0 predictions written to {tmp_path / 'out.jsonl'}\n", "")
    assert json.loads("[" + (tmp_path / "out.jsonl").read_text() + "]") == []


def test_without_a_file_two_example_prompts_are_answered():
    examples, _ = prompts_of(PromptArguments())
    assert len(examples) == 2
    for example, record in zip(examples, EXAMPLE_RECORDS, strict=True):
        assert record["answer"] in record["context"]
        assert example.source == (f"答案：{record['answer']}，上下文：{record['context']}。在已知答案的前提下，问题：")
        assert example.target is None
        assert json.loads(example.record) == record
