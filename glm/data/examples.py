"""From examples to batches: Example → token ids → numpy arrays. Imports numpy, never paddle.

A row is laid out as GLM was trained (arXiv:2103.10360, section 2.1):

    source      [CLS] text [gMASK] <|endoftext|>
    target      <|startofpiece|> y1 … yn             labels: y1 … yn <|endofpiece|>
    positions   row 0: 0 … S-1, then the index of [gMASK], n + 1 times; row 1: 0 … 0, then 1 … n + 1

A tokenizer is anything with cls_id, mask_id, eos_id, sop_id, eop_id, unk_id, encode(text) -> list of ids, and, where
unk_id is among these, unknown_characters(text) and text_of(ids).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from glm.data.records import DataError, ReadReport
from glm.data.templates import Example
from glm.data.truncation import fit_source
from glm.data.validation import told_with_remedy
from glm.errors import printable

IGNORED_LABEL = -100
# Characters that a message shows.
SHOWN = 10
# How the reason ends of what is wrong with an example of one task: its record may still serve the others.
OF_TASK = " of a task"
SOURCE_SPECIALS = 3  # [CLS], [gMASK], <|endoftext|>


@dataclass(frozen=True, eq=False)
class Encoded:
    """An example as int32 token ids: source_ids [S] with specials, target_ids [n + 1] = y1 … yn, end, or None.

    full_source_length and full_target_length count the tokens (specials included) that nothing cut would have.
    cut_source is the text that is left of a source that was cut. unknown_source and unknown_target are the characters
    that the vocabulary does not know, each once: a model reads and writes the same piece for all of them.
    """

    example: Example
    source_ids: np.ndarray
    target_ids: np.ndarray | None
    full_source_length: int
    full_target_length: int
    cut_source: str | None = None
    unknown_source: str = ""
    unknown_target: str = ""

    @property
    def source(self) -> str:
        """The text that source_ids are of, which is all that a model reads of the example's."""
        return self.example.source if self.cut_source is None else self.cut_source

    @property
    def context(self) -> str:
        """What of the example's context is in the source."""
        return self.source.removeprefix(self.example.before).removesuffix(self.example.after)

    @property
    def mask_index(self) -> int:
        return len(self.source_ids) - 2

    @property
    def length(self) -> int:
        """Tokens of the row in a training batch: those of the source and of the target."""
        return len(self.source_ids) + len(self.target_ids)

    @property
    def source_cut(self) -> bool:
        return self.full_source_length > len(self.source_ids)

    @property
    def target_cut(self) -> bool:
        return self.target_ids is not None and self.full_target_length > len(self.target_ids)


def encode(example: Example, tokenizer, src_length: int, tgt_length: int, need_target: bool = True) -> Encoded:
    """Token ids of an example: at most src_length for the source, at most tgt_length (>= 2) for target and end.

    Raises DataError if the prompt does not fit even without its context, or if there is a target that cannot be
    written; without need_target, such a target is left out.
    """
    text_ids, full_length, text = fit_source(example, tokenizer.encode, src_length - SOURCE_SPECIALS)
    source = [tokenizer.cls_id, *text_ids, tokenizer.mask_id, tokenizer.eos_id]
    target = None if example.target is None else tokenizer.encode(example.target)
    unknown = "" if target is None else unknown_in(example.target, target, tokenizer)
    if target is not None and (problem := problem_of(target, unknown, tokenizer)):
        if need_target:
            reason = problem[1] + OF_TASK if example.task else problem[1]
            raise DataError(f"{example.place}: {problem[0]}", reason)
        target = None
    return Encoded(
        example=example,
        source_ids=np.array(source, np.int32),
        target_ids=None if target is None else np.array([*target[: tgt_length - 1], tokenizer.eop_id], np.int32),
        full_source_length=full_length + SOURCE_SPECIALS,
        full_target_length=0 if target is None else len(target) + 1,
        cut_source=text if full_length > len(text_ids) else None,
        unknown_source=unknown_in(text, text_ids, tokenizer),
        unknown_target=unknown,
    )


def unknown_in(text: str, ids: list[int], tokenizer) -> str:
    """The characters of a text with these ids that the vocabulary does not know, each once."""
    return "".join(dict.fromkeys(tokenizer.unknown_characters(text))) if tokenizer.unk_id in ids else ""


def problem_of(target: list[int], unknown: str, tokenizer) -> tuple[str, str] | None:
    """Why a target of these ids, with these unknown characters, teaches nothing, and the short name of that."""
    if not target:
        return "the target has no tokens; write some text in it", "empty target"
    if unknown and not tokenizer.text_of([i for i in target if i != tokenizer.unk_id]).strip():
        told = printable(unknown[:SHOWN])
        return f"the vocabulary has no character of the target ({told}); write it in others", "unknown target"
    return None


def encode_all(
    examples: Iterable[Example],
    tokenizer,
    src_length: int,
    tgt_length: int,
    on_bad_data: str = "error",
    report: ReadReport | None = None,
    need_target: bool = True,
) -> list[Encoded]:
    """Encode examples in order. With on_bad_data="skip", those that cannot be are counted in `report` and left out.

    Raises DataError at the first that cannot be encoded otherwise, and always if none can. Of a record's tasks, those
    whose target cannot be written are left out in any case, and counted.
    """
    outcomes = (try_encode(example, tokenizer, src_length, tgt_length, need_target) for example in examples)
    return list(without_bad(outcomes, on_bad_data, report))


def try_encode(
    example: Example, tokenizer, src_length: int, tgt_length: int, need_target: bool = True
) -> Encoded | DataError:
    """encode(), with its error as a value."""
    try:
        return encode(example, tokenizer, src_length, tgt_length, need_target)
    except DataError as error:
        return error


def without_bad(
    outcomes: Iterable[Encoded | DataError], on_bad_data: str, report: ReadReport | None
) -> Iterator[Encoded]:
    """The rows among outcomes of try_encode(), one at a time; errors are treated as encode_all() says."""
    first_error, found = None, False
    for outcome in outcomes:
        if not isinstance(outcome, DataError):
            found = True
            if report is not None:
                report.see_unknown(outcome.unknown_source, outcome.unknown_target, outcome.example.place)
            yield outcome
        elif on_bad_data == "error" and not outcome.reason.endswith(OF_TASK):
            raise told_with_remedy(outcome)
        else:
            first_error = first_error or outcome
            if report is not None:
                report.skip(outcome)
    if first_error and not found:
        raise first_error


def collate(batch: list[Encoded], sop_id: int) -> dict[str, np.ndarray]:
    """A training batch without padding: all tokens in one row, example after example, source before target. int64:

    input_ids [tokens], position_ids [2, tokens], labels [targets], lengths [examples, 2] of sources and targets.
    """
    sop = np.array([sop_id])
    input_ids, places, blocks = [], [], []
    for row in batch:
        source, target = len(row.source_ids), len(row.target_ids)
        input_ids += [row.source_ids, sop, row.target_ids[:-1]]
        places += [np.arange(source), np.full(target, row.mask_index)]
        blocks += [np.zeros(source), np.arange(1, target + 1)]
    return {
        "input_ids": np.concatenate(input_ids).astype(np.int64),
        "position_ids": np.stack([np.concatenate(places), np.concatenate(blocks)]).astype(np.int64),
        "labels": np.concatenate([row.target_ids for row in batch]).astype(np.int64),
        "lengths": np.array([[len(row.source_ids), len(row.target_ids)] for row in batch], np.int64),
    }


def collate_padded(batch: list[Encoded], pad_id: int, sop_id: int) -> dict[str, np.ndarray]:
    """A training batch as paddlenlp lays it out, padded on the right to its longest row. int64 throughout:

    input_ids [batch, length], position_ids [batch, 2, length], source_length [batch],
    labels [batch, length] (IGNORED_LABEL everywhere but at target positions).
    """
    length = max(row.length for row in batch)
    input_ids = np.full((len(batch), length), pad_id, np.int64)
    position_ids = np.zeros((len(batch), 2, length), np.int64)
    labels = np.full((len(batch), length), IGNORED_LABEL, np.int64)
    for i, row in enumerate(batch):
        source, end = len(row.source_ids), row.length
        input_ids[i, :source] = row.source_ids
        input_ids[i, source] = sop_id
        input_ids[i, source + 1 : end] = row.target_ids[:-1]
        labels[i, source:end] = row.target_ids
        position_ids[i, 0, :source] = np.arange(source)
        position_ids[i, 0, source:end] = row.mask_index
        position_ids[i, 1, source:end] = np.arange(1, end - source + 1)
    source_length = np.array([len(row.source_ids) for row in batch], np.int64)
    return {"input_ids": input_ids, "position_ids": position_ids, "source_length": source_length, "labels": labels}


def attention_mask(source_length: np.ndarray, length: int) -> np.ndarray:
    """Which key each query may see, bool [batch, 1, length, length]: those of the source, and those not after it.

    Padding comes last in a row, so that no real query sees it.
    """
    key, query = np.arange(length)[None, None, None, :], np.arange(length)[None, None, :, None]
    return (key < np.asarray(source_length)[:, None, None, None]) | (key <= query)


def collate_prompts(batch: list[Encoded], pad_id: int) -> dict[str, np.ndarray]:
    """Prompts to generate from, padded on the right.

    input_ids int64 [batch, length], source_mask float32 [batch, length] (1 real, 0 padding), mask_index int64 [batch].
    """
    length = max(len(row.source_ids) for row in batch)
    input_ids = np.full((len(batch), length), pad_id, np.int64)
    source_mask = np.zeros((len(batch), length), np.float32)
    for i, row in enumerate(batch):
        input_ids[i, : len(row.source_ids)] = row.source_ids
        source_mask[i, : len(row.source_ids)] = 1
    mask_index = np.array([row.mask_index for row in batch], np.int64)
    return {"input_ids": input_ids, "source_mask": source_mask, "mask_index": mask_index}


def lengths_of(rows) -> np.ndarray:
    """Tokens of rows, int64 [rows, 4]: source, target (-1 where there is none), and both before cutting.

    rows: a list of Encoded, or what has such an array as its `lengths`.
    """
    if hasattr(rows, "lengths"):
        return rows.lengths
    lengths = [
        (len(row.source_ids), -1 if row.target_ids is None else len(row.target_ids))
        + (row.full_source_length, row.full_target_length)
        for row in rows
    ]
    return np.array(lengths, np.int64).reshape([-1, 4])


def length_statistics(lengths: np.ndarray) -> dict[str, int]:
    """Count, median, 95th percentile and maximum of the lengths in tokens before cutting, and how many were cut.

    lengths: as lengths_of() gives them. Specials count, as they do in src_length and tgt_length; percentiles are
    lengths that occur (nearest rank).
    """
    source, target, full_source, full_target = lengths.T
    there = target >= 0
    return {
        **_summary("source", full_source),
        "source_cut": int((full_source > source).sum()),
        **_summary("target", full_target[there]),
        "target_cut": int((full_target > target)[there].sum()),
    }


def _summary(name: str, lengths: np.ndarray) -> dict[str, int]:
    if not len(lengths):
        return {f"{name}_count": 0}
    median, p95 = np.percentile(lengths, [50, 95], method="inverted_cdf")
    return {
        f"{name}_count": len(lengths),
        f"{name}_median": int(median),
        f"{name}_p95": int(p95),
        f"{name}_max": int(max(lengths)),
    }


def check_min_tgt_length(target_lengths, min_tgt_length: int) -> str | None:
    """A warning if at least 95 % of the targets (lengths in tokens, without the end token) are shorter than the minimum
    that decoding would force on every prediction; None if all is well."""
    lengths = np.asarray(target_lengths)
    shorter = int((lengths < min_tgt_length).sum())
    if not len(lengths) or shorter < 0.95 * len(lengths):
        return None
    median, longest = int(np.percentile(lengths, 50, method="inverted_cdf")), int(lengths.max())
    return (
        f"min_tgt_length is {min_tgt_length}, but {shorter} of {len(lengths)} targets are shorter "
        f"(median {median}, longest {longest} tokens): every prediction is made at least {min_tgt_length} tokens long, "
        f"most of it filler; try --min_tgt_length {max(0, int(lengths.min()))}"
    )
