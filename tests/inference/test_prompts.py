"""Prompts are read in windows: answers, counts and notes are those of the whole file, however it is divided."""

import json
import sys
import tracemalloc
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.data.records import ReadReport
from glm.data.tokenization import Tokenizer
from glm.decoding.generation_config import GenerationConfig
from glm.errors import UserError
from glm.inference import answers, prompts
from glm.inference.arguments import PromptArguments
from glm.inference.prompts import Prompts, Source
from glm.weights import builtin_model

CONFIG = GenerationConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def tokenizer():
    """The built-in tokenizer."""
    return Tokenizer(builtin_model.build())


@dataclass
class Echo:
    """A decoder that answers each prompt with its number, spelled by the tokenizer, and then with its own last id; it
    notes the numbers of each batch. fail_at: the batch that is interrupted."""

    tokenizer: object
    fail_at: int = -1
    batches: list = field(default_factory=list)

    def __call__(self, longest, needed):
        return self.run_batch

    def run_batch(self, batch, numbers):
        """Ids of the texts."""
        if len(self.batches) == self.fail_at:
            raise KeyboardInterrupt
        self.batches.append(list(numbers))
        ids = np.full([len(numbers), 12], self.tokenizer.eop_id)
        for row, number in enumerate(numbers):
            spelled = self.tokenizer.encode(str(number))
            ids[row, : len(spelled)] = spelled
        return ids


def records(count):
    """Records of different lengths, some with a character that the vocabulary does not know, some too long."""
    for i in range(count):
        text = f"第{i}问" + "的一" * (i * 7 % 13) + "𠮷" * (i % 5 == 0) + "的" * 60 * (i % 11 == 3)
        yield json.dumps({"id": i, "source": text}, ensure_ascii=False)


def answer(tmp_path, tokenizer, lines, decoder=None, **flags):
    """Answer a file of lines; the bytes written."""
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text("\n".join(lines) + "\n", encoding="utf8")
    flags = {"data_file": str(data), "output_file": str(output), "src_length": 40, "batch_size": 2, **flags}
    decoder = decoder or Echo(tokenizer)
    answers.answer_prompts(PromptArguments(**flags), tokenizer, CONFIG, [], decoder)
    return output.read_bytes()


@pytest.mark.parametrize("window", [1, 7, 50, 4096])
def test_numbers_order_and_notes_are_of_the_whole_file_whatever_the_window(
    tmp_path, tokenizer, monkeypatch, capsys, window
):
    monkeypatch.setattr(prompts, "WINDOW", window)
    lines = list(records(50))
    lines[20:20] = ["nonsense", '{"source": ""}']
    decoder = Echo(tokenizer)
    written = answer(tmp_path, tokenizer, lines, decoder, on_bad_data="skip").decode().splitlines()
    assert [json.loads(line) for line in written] == [
        {**json.loads(record), "prediction": str(i)} for i, record in enumerate(records(50))
    ]
    # Each window by itself, the longest prompts first.
    assert sorted(number for batch in decoder.batches for number in batch) == list(range(50))
    assert [batch[0] // window for batch in decoder.batches] == sorted(batch[0] // window for batch in decoder.batches)
    told = capsys.readouterr().err
    assert "50 records read, 2 bad records skipped" in told
    assert f"{tmp_path / 'data.jsonl'}:21: " in told
    cut = sum("的" * 60 in record for record in records(50))
    assert f"{cut} of 50 prompts were cut to --src_length 40 tokens" in told
    assert "10 of 50 prompts have characters that the vocabulary does not know" in told
    assert told.count("of 50 prompts") == 2


def test_windows_end_by_their_texts_too(tokenizer, monkeypatch):
    monkeypatch.setattr(prompts, "CHARACTERS", 100)
    rows = [example_row(text) for text in ("甲" * 30, "乙" * 60, "丙" * 20, "丁" * 500, "戊")]
    assert [len(window) for window in prompts.in_windows(rows)] == [3, 1, 1]


def example_row(text):
    from tests.helpers.answered import answered

    return answered(text).row


def test_a_mistake_far_down_is_told_before_anything_is_decoded(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(prompts, "WINDOW", 4)
    lines = [*records(30), "nonsense", *records(3)]
    decoder = Echo(tokenizer)
    with pytest.raises(UserError, match=r"data\.jsonl:31: bad JSON"):
        answer(tmp_path, tokenizer, lines, decoder)
    assert decoder.batches == []


@pytest.mark.parametrize("fail_at", [0, 1, 5, 9])
@pytest.mark.parametrize("torn", [False, True])
def test_a_run_goes_on_in_the_middle_of_a_window_with_the_same_batches(tmp_path, tokenizer, monkeypatch, fail_at, torn):
    from glm.errors import Interrupted

    monkeypatch.setattr(prompts, "WINDOW", 16)
    lines, whole = list(records(50)), Echo(tokenizer)
    expected = answer(tmp_path, tokenizer, lines, whole)
    (tmp_path / "out.jsonl").unlink()
    broken = Echo(tokenizer, fail_at)
    with pytest.raises(Interrupted, match="of 50 answers are kept in"):
        answer(tmp_path, tokenizer, lines, broken)
    kept = tmp_path / "out.jsonl.partial"
    if torn and fail_at:
        # The last line of the batch before, as a kill leaves it.
        kept.write_bytes(kept.read_bytes()[:-5])
    going_on = Echo(tokenizer)
    assert answer(tmp_path, tokenizer, lines, going_on, resume=True) == expected
    assert not kept.exists()
    assert going_on.batches == whole.batches[max(0, fail_at - torn) :]


def test_a_run_goes_on_with_another_batch_size(tmp_path, tokenizer, monkeypatch):
    from glm.errors import Interrupted

    monkeypatch.setattr(prompts, "WINDOW", 16)
    lines = list(records(50))
    expected = answer(tmp_path, tokenizer, lines)
    with pytest.raises(Interrupted):
        answer(tmp_path, tokenizer, lines, Echo(tokenizer, 3))
    assert answer(tmp_path, tokenizer, lines, resume=True, batch_size=1) == expected


def test_a_file_that_changes_while_it_is_answered_ends_the_run_in_a_line(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(prompts, "WINDOW", 16)
    lines = list(records(2000))
    data, decoder = tmp_path / "data.jsonl", Echo(tokenizer)

    def opened(longest, needed):
        data.write_text("\n".join([*lines[:40], lines[0], *lines[41:]]) + "\n", encoding="utf8")
        return decoder.run_batch

    with pytest.raises(UserError, match=r"data\.jsonl has changed since this run began; .*--resume"):
        answer(tmp_path, tokenizer, lines, opened)
    assert {number for batch in decoder.batches for number in batch} == set(range(32))
    data.write_text("\n".join(lines) + "\n", encoding="utf8")
    assert answer(tmp_path, tokenizer, lines, resume=True) == answer(tmp_path, tokenizer, lines)


def test_a_file_of_one_window_is_read_once(tmp_path, tokenizer):
    lines = list(records(20))

    def opened(longest, needed):
        (tmp_path / "data.jsonl").unlink()
        return Echo(tokenizer).run_batch

    assert answer(tmp_path, tokenizer, lines, opened).count(b"\n") == 20


def test_the_longest_prompt_is_known_before_a_decoder_is_opened(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(prompts, "WINDOW", 4)
    found = []

    def opened(longest, needed):
        found.append(longest)
        return Echo(tokenizer).run_batch

    answer(tmp_path, tokenizer, records(50), opened, src_length=100)
    lengths = [len(tokenizer.encode(json.loads(record)["source"])) + 3 for record in records(50)]
    assert found == [min(100, max(lengths))]


def test_on_the_screen_answers_come_a_window_at_a_time_and_not_on_the_bars_line(
    tmp_path, tokenizer, monkeypatch, capsys
):
    monkeypatch.setattr(prompts, "WINDOW", 4)
    seen = []

    class Watching(Echo):
        def run_batch(self, batch, numbers):
            seen.append(capsys.readouterr().out.count("\n"))
            return super().run_batch(batch, numbers)

    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(records(12)), encoding="utf8")
    arguments = PromptArguments(data_file=str(data), src_length=40)
    answers.answer_prompts(arguments, tokenizer, CONFIG, [], Watching(tokenizer))
    assert sum(seen) + capsys.readouterr().out.count("\n") == 12
    assert seen == [0, 4, 4]


@pytest.mark.parametrize("layout", ["lines", "array", "table", "text"])
def test_memory_does_not_grow_with_the_file(tmp_path, tokenizer, monkeypatch, layout):
    monkeypatch.setattr(prompts, "WINDOW", 64)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)

    def peak(count):
        path = tmp_path / {"lines": "d.jsonl", "array": "d.json", "table": "d.csv", "text": "d.txt"}[layout]
        texts = [f"第{i}问：云栖湖在哪里？" for i in range(count)]
        as_json = [json.dumps({"source": text}, ensure_ascii=False) for text in texts]
        path.write_text(
            {
                "lines": "\n".join(as_json),
                "array": "[" + ",\n".join(as_json) + "]",
                "table": "source,id\n" + "\n".join(f"{text},1" for text in texts),
                "text": "\n".join(texts),
            }[layout],
            encoding="utf8",
        )
        del texts, as_json
        arguments = PromptArguments(data_file=str(path), output_file=str(tmp_path / "out.jsonl"))
        tracemalloc.start()
        answers.answer_prompts(arguments, tokenizer, CONFIG, [], Echo(tokenizer, batches=Forgetful()))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few = peak(640)
    assert peak(6400) < 1.3 * few


class Forgetful(list):
    """A list that keeps nothing."""

    def append(self, item):
        """Forget it."""


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 9))
def test_windows_hold_all_rows_in_order(lengths, window):
    rows = [example_row("字" * length) for length in lengths]
    whole = prompts.WINDOW, prompts.CHARACTERS
    try:
        prompts.WINDOW, prompts.CHARACTERS = window, 400
        found = list(prompts.in_windows(iter(rows)))
    finally:
        prompts.WINDOW, prompts.CHARACTERS = whole
    assert [row for rows_of_window in found for row in rows_of_window] == rows
    for rows_of_window in found:
        assert 1 <= len(rows_of_window) <= window
        assert sum(len(row.example.source) for row in rows_of_window[:-1]) < 400


def test_what_answers_depend_on_is_in_the_digests(tokenizer):
    from glm.data.templates import Example

    def digests(*texts, src_length=40, target=None):
        examples = [Example("", text, "", target=target) for text in texts]
        return Prompts(Source("x", lambda report: iter(examples)), tokenizer, src_length).digests

    same = digests("的" * 60, "乙")
    assert same == digests("的" * 60, "乙")
    others = [digests("的" * 60), digests("乙", "的" * 60), digests("的" * 60, "乙", src_length=41)]
    others += [digests("的" * 60, "乙", target="丙"), digests("的" * 59 + "一", "乙")]
    assert same not in others
    assert ReadReport("x").skipped == {}
