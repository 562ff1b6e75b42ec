"""Prompts are compared byte for byte, rows with GLM's layout written out from its definition, one token at a time."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.data.examples import (
    attention_mask,
    check_min_tgt_length,
    collate,
    collate_padded,
    collate_prompts,
    encode,
    encode_all,
    length_statistics,
    lengths_of,
)
from glm.data.records import ReadReport
from glm.data.templates import TEMPLATES, Example
from glm.data.tokenization import Tokenizer
from glm.data.truncation import MAX_WINDOW_PROBES
from glm.data.validation import DataError
from glm.weights import builtin_model


class CharacterTokenizer:
    """One id a character, above the special ids."""

    unk_id, cls_id, mask_id, eos_id, sop_id, eop_id = range(6)
    pieces = re.compile(r".", re.DOTALL)

    def __init__(self):
        self.vocabulary, self.calls = [], 0

    def encode(self, text: str) -> list[int]:
        self.calls += 1
        for piece in self.pieces.findall(text):
            if piece not in self.vocabulary:
                self.vocabulary.append(piece)
        return [10 + self.vocabulary.index(piece) for piece in self.pieces.findall(text)]

    def decode(self, ids) -> str:
        return "".join(self.vocabulary[i - 10] for i in ids if i >= 10)


class MergingTokenizer(CharacterTokenizer):
    """Repeated letters merge and brackets swallow what they enclose, so lengths of parts do not add up."""

    pieces = re.compile(r"a+|bc|\([^()]*\)|.", re.DOTALL)


tokenizers = st.sampled_from([CharacterTokenizer, MergingTokenizer])
letters = st.text(alphabet="aabcd()。", min_size=1, max_size=60)


@st.composite
def question_examples(draw):
    context = draw(letters)
    start = draw(st.integers(0, len(context) - 1))
    answer = context[start : start + draw(st.integers(1, 6))]
    prompt = TEMPLATES["qg"].prompt({"context": context, "answer": answer})
    return Example(**prompt, target=draw(letters), place="f:1")


@st.composite
def encoded_batches(draw, tgt_length=8):
    tokenizer = draw(tokenizers)()
    examples = draw(st.lists(question_examples(), min_size=1, max_size=4))
    return encode_all(examples, tokenizer, 200, tgt_length), tokenizer


@given(example=question_examples())
def test_prompt_given_as_plain_text_is_cut_like_the_record(example):
    text = Example(**TEMPLATES["text"].prompt({"source": example.source}))
    assert text.source == example.source
    if len(example.source) > 40 and "，上下文：" not in example.keep:
        tokenizer = CharacterTokenizer()
        cut = [encode(e, tokenizer, 40, 8).source_ids.tolist() for e in (text, example)]
        assert cut[0] == cut[1]


@settings(max_examples=300)
@given(example=question_examples(), tokenizer=tokenizers, src_length=st.integers(24, 100))
def test_cut_source_keeps_template_and_answer_and_stays_within_src_length(example, tokenizer, src_length):
    tokenizer = tokenizer()
    limit = src_length - 3

    def count(context):
        return len(tokenizer.encode(example.before + context + example.after))

    if min(count(context) for context in ("", example.keep, example.context)) > limit:
        with pytest.raises(DataError, match=f"^f:1: the prompt takes {count('')} tokens .* leaves {limit} for it"):
            encode(example, tokenizer, src_length, 8)
        return

    row = encode(example, tokenizer, src_length, 8)
    ids = row.source_ids.tolist()
    assert len(ids) <= src_length
    assert [ids[0], *ids[-2:]] == [tokenizer.cls_id, tokenizer.mask_id, tokenizer.eos_id]
    assert ids[row.mask_index] == tokenizer.mask_id
    text = tokenizer.decode(ids)
    window = text[len(example.before) : len(text) - len(example.after)]
    assert text == example.before + window + example.after
    assert window in example.context
    assert row.full_source_length == count(example.context) + 3
    assert row.source_cut == (text != example.source)
    assert row.source == text
    assert example.keep in window or count(example.keep) > limit


@given(example=question_examples(), src_length=st.integers(24, 100))
def test_cut_is_the_smallest_possible(example, src_length):
    # With one token a character, the room left for the context is known exactly.
    room = src_length - 3 - len(example.before + example.after)
    if room < 0:
        return
    row = encode(example, CharacterTokenizer(), src_length, 8)
    assert len(row.source_ids) == src_length - room + min(room, len(example.context))


def test_window_is_centred_on_the_first_occurrence_of_the_answer():
    context = "前" * 50 + "答案" + "后" * 50 + "答案"
    example = Example(**TEMPLATES["qg"].prompt({"context": context, "answer": "答案"}))
    tokenizer = CharacterTokenizer()
    src_length = 3 + len(example.before + example.after) + 12
    text = tokenizer.decode(encode(example, tokenizer, src_length, 8).source_ids)
    assert text == example.before + "前" * 5 + "答案" + "后" * 5 + example.after


@pytest.mark.parametrize(
    ("template", "fields", "kept"),
    [
        ("qg", {"context": "0123456789", "answer": "无"}, "01234"),
        ("instruction", {"instruction": "0123456789", "input": ""}, "56789"),
        ("instruction", {"instruction": "012", "input": "3456789"}, "01234"),
        ("text", {"source": "0123456789"}, "01234"),
    ],
)
def test_which_end_is_kept_when_there_is_no_answer_to_keep(template, fields, kept):
    example = Example(**TEMPLATES[template].prompt(fields))
    tokenizer = CharacterTokenizer()
    src_length = 3 + len(example.before + example.after) + 5
    text = tokenizer.decode(encode(example, tokenizer, src_length, 8).source_ids)
    assert text == example.before + kept + example.after


@pytest.mark.parametrize("template", ["instruction", "text"])
@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (66, "背景\nHuman:01\nAssistant:23\nHuman：45\nAssistant:67\nHuman:89\nAssistant:"),
        (65, "Human:01\nAssistant:23\nHuman：45\nAssistant:67\nHuman:89\nAssistant:"),
        (62, "Human：45\nAssistant:67\nHuman:89\nAssistant:"),
        (19, "Human:89\nAssistant:"),
        (18, "Human:9\nAssistant:"),
    ],
)
def test_a_talk_loses_whole_turns_and_the_last_one_its_beginning(template, limit, kept):
    talk = "背景\nHuman:01\nAssistant:23\nHuman：45\nAssistant:67\nHuman:89\nAssistant:"
    assert len(talk) == 66
    tokenizer = CharacterTokenizer()
    example = Example(**TEMPLATES[template].prompt({"instruction": talk, "source": talk}))
    row = encode(example, tokenizer, limit + 3, 8)
    assert tokenizer.decode(row.source_ids) == row.source == kept
    assert row.full_source_length == len(talk) + 3


def test_long_rows_take_few_tokenisations_and_short_ones_a_single_one():
    tokenizer = MergingTokenizer()
    context = "d" * 3000 + "答案" + "bc" * 4000 + "a" * 2000
    example = Example(**TEMPLATES["qg"].prompt({"context": context, "answer": "答案"}))
    row = encode(example, tokenizer, 608, 8)
    assert 600 <= len(row.source_ids) <= 608
    assert tokenizer.calls <= MAX_WINDOW_PROBES + 3
    tokenizer.calls = 0
    endless = replace(example, context="d" * 60_000 + "答案" + "c" * 40_000)
    assert len(encode(endless, tokenizer, 608, 8).source_ids) == 608
    assert tokenizer.calls <= MAX_WINDOW_PROBES + 3
    tokenizer.calls = 0
    encode(replace(example, context="答案"), tokenizer, 608, 8)
    assert tokenizer.calls == 1


@given(target=letters, tgt_length=st.integers(2, 20), tokenizer=tokenizers)
def test_long_target_loses_its_end_but_never_the_end_token(target, tgt_length, tokenizer):
    tokenizer = tokenizer()
    row = encode(Example("", "甲", "", target=target), tokenizer, 100, tgt_length)
    whole = [*tokenizer.encode(target), tokenizer.eop_id]
    assert row.target_ids.tolist() == whole[:-1][: tgt_length - 1] + [tokenizer.eop_id]
    assert row.target_cut == (len(whole) > tgt_length)


def test_examples_that_cannot_be_encoded_are_skipped_and_counted():
    class Deaf(CharacterTokenizer):
        pieces = re.compile(r"[^\u200b]")

    good = Example("", "甲", "", target="乙", place="f:1")
    examples = [good, replace(good, target="\u200b", place="f:2"), replace(good, before="长" * 30, place="f:3")]
    report = ReadReport("f")
    rows = encode_all(examples, Deaf(), 20, 8, "skip", report)
    assert [row.example for row in rows] == [good]
    assert dict(report.skipped) == {"empty target": 1, "prompt too long": 1}
    with pytest.raises(DataError, match="^f:2: the target has no tokens"):
        encode_all(examples, Deaf(), 20, 8)
    with pytest.raises(DataError, match="^f:2: the target has no tokens"):
        encode_all(examples[1:], Deaf(), 20, 8, "skip")


@pytest.fixture(scope="module")
def builtin():
    return Tokenizer(builtin_model.build())


def test_unknown_characters_are_counted_in_what_is_read_and_in_what_is_written(builtin):
    def example(source, target, line):
        return Example("", source, "", target=target, place=f"f:{line}")

    examples = [
        example("天气😀", "很好", 3),
        example("天气", "很好", 4),
        example("𠮷天气😀", "很😀好", 7),
        example("天" * 40 + "𠀀", "好", 9),
    ]
    report = ReadReport("f")
    rows = encode_all(examples, builtin, 30, 8, "error", report)
    assert [(row.unknown_source, row.unknown_target) for row in rows] == [
        ("😀", ""),
        ("", ""),
        ("𠮷😀", "😀"),
        ("", ""),
    ]
    assert (report.unknown_sources, report.unknown_targets) == (2, 1)
    told = report.unknown(len(rows))
    assert told.startswith("f: 2 of 4 sources and 1 of their targets have characters that the vocabulary does not know")
    assert told.endswith("e.g. 😀 (f:3), 𠮷 (f:7)")
    clean = ReadReport("f")
    encode_all(examples[1:2], builtin, 30, 8, "error", clean)
    assert clean.unknown(1) is None


@pytest.mark.parametrize("target", ["😀", "😀😀", " 😀 ", "\n𠮷", "😀 𠮷"])
def test_a_target_without_one_known_character_is_a_bad_record(builtin, target):
    bad = Example("", "天气", "", target=target, place="f:2")
    good = replace(bad, target="好" + target, place="f:1")
    with pytest.raises(DataError, match="^f:2: the vocabulary has no character of the target .*--on_bad_data skip"):
        encode_all([good, bad], builtin, 30, 8)
    report = ReadReport("f")
    rows = encode_all([good, bad], builtin, 30, 8, "skip", report)
    assert [row.example for row in rows] == [good]
    assert dict(report.skipped) == {"unknown target": 1}
    # Where it is not asked for, it keeps nothing from being answered.
    (row,) = encode_all([bad], builtin, 30, 8, need_target=False)
    assert row.target_ids is None
    assert row.example.target == target


def reference_row(row, tokenizer):
    """(input id, position, block position, label) of every token, by the definition in the paper."""
    source = row.source_ids.tolist()
    target = row.target_ids.tolist()
    mask_position = source.index(tokenizer.mask_id)
    tokens = [(token, position, 0, -100) for position, token in enumerate(source)]
    block, previous = 1, tokenizer.sop_id
    for token in target:
        tokens.append((previous, mask_position, block, token))
        block, previous = block + 1, token
    return tokens


@given(batch=encoded_batches())
def test_batch_is_laid_out_by_the_definition_and_equals_single_rows_up_to_padding(batch):
    rows, tokenizer = batch
    arrays = collate_padded(rows, pad_id=99, sop_id=tokenizer.sop_id)
    longest = max(len(reference_row(row, tokenizer)) for row in rows)
    for i, row in enumerate(rows):
        reference = reference_row(row, tokenizer)
        reference += [(99, 0, 0, -100)] * (longest - len(reference))
        columns = (arrays["input_ids"][i], *arrays["position_ids"][i], arrays["labels"][i])
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == reference
        assert arrays["source_length"][i] == len(row.source_ids)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}
    assert arrays["position_ids"].shape == (len(rows), 2, longest)


@given(batch=encoded_batches())
def test_a_training_batch_is_the_rows_one_after_another(batch):
    rows, tokenizer = batch
    arrays = collate(rows, tokenizer.sop_id)
    reference = [token for row in rows for token in reference_row(row, tokenizer)]
    assert list(zip(arrays["input_ids"], *arrays["position_ids"], strict=True)) == [token[:3] for token in reference]
    assert arrays["labels"].tolist() == [token[3] for token in reference if token[3] != -100]
    assert arrays["lengths"].tolist() == [[len(row.source_ids), len(row.target_ids)] for row in rows]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}


@given(batch=encoded_batches())
def test_attention_is_bidirectional_in_the_source_causal_in_the_target_and_never_on_padding(batch):
    rows, tokenizer = batch
    arrays = collate_padded(rows, 99, tokenizer.sop_id)
    length = arrays["input_ids"].shape[1]
    mask = attention_mask(arrays["source_length"], length)
    assert mask.shape == (len(rows), 1, length, length)
    for row, visible in zip(rows, mask[:, 0], strict=True):
        source, end = len(row.source_ids), len(row.source_ids) + len(row.target_ids)
        assert visible[:source].tolist() == [[True] * source + [False] * (length - source)] * source
        for query in range(source, end):
            assert visible[query].tolist() == [True] * (query + 1) + [False] * (length - query - 1)


@given(batch=encoded_batches())
def test_prompts_are_padded_on_the_right_and_know_their_mask_token(batch):
    rows, tokenizer = batch
    arrays = collate_prompts(rows, pad_id=tokenizer.eos_id)
    for i, row in enumerate(rows):
        size = int(arrays["source_mask"][i].sum())
        assert arrays["input_ids"][i, :size].tolist() == row.source_ids.tolist()
        assert set(arrays["input_ids"][i, size:].tolist()) <= {tokenizer.eos_id}
        assert arrays["source_mask"][i].tolist() == sorted(arrays["source_mask"][i].tolist(), reverse=True)
        assert arrays["input_ids"][i, arrays["mask_index"][i]] == tokenizer.mask_id
    assert arrays["source_mask"].dtype == np.float32
    assert max(len(row.source_ids) for row in rows) == arrays["input_ids"].shape[1]


def test_length_statistics_count_lengths_before_cutting():
    tokenizer = CharacterTokenizer()
    examples = [Example("", "甲" * n, "", target="乙" * n) for n in range(1, 21)]
    figures = length_statistics(lengths_of(encode_all(examples, tokenizer, src_length=13, tgt_length=6)))
    # Lengths are n + 3 and n + 1; of 20 values the median is the 10th, the 95th percentile the 19th.
    assert figures == {
        "source_count": 20, "source_median": 13, "source_p95": 22, "source_max": 23, "source_cut": 10,
        "target_count": 20, "target_median": 11, "target_p95": 20, "target_max": 21, "target_cut": 15,
    }  # fmt: skip
    prompts = [encode(replace(examples[0], target=None), tokenizer, 13, 6)]
    assert length_statistics(lengths_of(prompts)) == {
        "source_count": 1, "source_median": 4, "source_p95": 4, "source_max": 4, "source_cut": 0,
        "target_count": 0, "target_cut": 0,
    }  # fmt: skip


def test_minimum_longer_than_nearly_all_targets_is_warned_of_with_figures():
    lengths = [5] * 95 + [60] * 5
    warning = check_min_tgt_length(lengths, 55)
    assert "55" in warning
    assert "95 of 100" in warning
    assert "median 5, longest 60" in warning
    assert check_min_tgt_length(lengths[1:], 55) is None
    assert check_min_tgt_length(lengths, 5) is None
    assert check_min_tgt_length([], 55) is None
