"""Reads data files into validated records: JSON Lines, a JSON array, sets of questions in articles, tables, pairs of
files .source and .target, plain text.

Every record knows the file and the line it came from, and every complaint names them. Files are read line by
line, so that a set larger than memory can be streamed with iter_records. Standard library only, but for some tables.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from glm.data import nested_sets
from glm.data.kinds import JSON, PAIR, TEXT, check_is_file, kind_of, pair_files
from glm.data.tables import table_candidates
from glm.data.text_lines import UTF8_ADVICE, Candidate, blank, decoded, is_blank, line_candidates, raw_lines
from glm.data.validation import DataError, Fields, bad_record, told_with_remedy, validate
from glm.errors import printable
from glm.files import lines
from glm.files.json_array import ArrayError, array_items, begins_array

ON_BAD_DATA = ("error", "skip")
# Unknown characters that a message shows.
SHOWN = 5


@dataclass(frozen=True)
class Record:
    """One validated record. An absent optional field is ""; keys that were not asked for (id) stay as they were.

    original: the record as the file has it: its JSON text, in files of other formats an object.
    """

    fields: dict
    path: str
    line: int
    original: object = None

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Part:
    """Some of a file's records, for a split: those whose numbers (from 0, blank lines not counted) are in `numbers`, or
    all others."""

    numbers: frozenset
    others: bool = False

    def has(self, number: int) -> bool:
        """Whether a record belongs to the part."""
        return (number in self.numbers) != self.others


@dataclass
class ReadReport:
    """What a reader saw: records read, records skipped by reason, the first complaint of each reason, blank lines,
    pairs that a reviewer rejected; how many sources and targets have characters that the vocabulary does not know, and
    the lines where the first ones of these stand."""

    path: str
    read: int = 0
    blank: int = 0
    rejected: int = 0
    skipped: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    unknown_sources: int = 0
    unknown_targets: int = 0
    unknown_at: dict[str, int] = field(default_factory=dict)

    def see_unknown(self, source: str, target: str, place: str) -> None:
        """Count the unknown characters of an example, which stands at "path:line"."""
        self.unknown_sources += bool(source)
        self.unknown_targets += bool(target)
        line = place.rpartition(":")[2]
        for character in target + source if len(self.unknown_at) < SHOWN else "":
            self.unknown_at.setdefault(character, int(line) if line.isdecimal() else 0)

    def unknown(self, count: int) -> str | None:
        """One line about the unknown characters of `count` examples, None if there are none."""
        if not self.unknown_at:
            return None
        shown = ", ".join(f"{c} ({self.path}:{line})" for c, line in list(self.unknown_at.items())[:SHOWN])
        return (
            f"{self.path}: {self.unknown_sources} of {count} sources and {self.unknown_targets} of their targets have "
            f"characters that the vocabulary does not know, all the same to the model, e.g. {printable(shown)}"
        )

    def moved(self, path: str) -> "ReadReport":
        """The same of the file where it is now; complaints may be of one that belongs to it and ends otherwise."""
        before, now = (str(Path(place).with_suffix("")) for place in (self.path, path))
        first = {
            reason: now + told.removeprefix(before) if told.startswith(before) else told
            for reason, told in self.first.items()
        }
        return replace(self, path=path, first=first)

    def skip(self, error: DataError) -> None:
        """Count a bad record under its reason."""
        self.skipped[error.reason] += 1
        self.first.setdefault(error.reason, str(error))

    def summary(self) -> str:
        """One line: how many were read and skipped, and the first complaint of each kind."""
        text = f"{self.path}: {self.read} records read"
        if self.blank:
            text += f", {self.blank} blank lines passed over"
        if self.rejected:
            text += f", {self.rejected} pairs that a reviewer rejected left out"
        if self.skipped:
            reasons = " | ".join(f"{name} x {count}, first {self.first[name]}" for name, count in self.skipped.items())
            text += f", {sum(self.skipped.values())} bad records skipped ({reasons})"
        return text


def read_records(path, fields: Fields, on_bad_data: str = "error") -> tuple[list[Record], ReadReport]:
    """All records of a file, in order, and the report. Raises DataError as iter_records does."""
    report = ReadReport(str(path))
    return list(iter_records(path, fields, on_bad_data, report)), report


def read_texts(path, on_bad_data: str = "error") -> tuple[list[Record], ReadReport]:
    """A plain text file, one text a line, as records whose only field is "source". Raises DataError."""
    report = ReadReport(str(path))
    return list(iter_texts(path, on_bad_data, report)), report


def iter_records(
    path,
    fields: Fields,
    on_bad_data: str = "error",
    report: ReadReport | None = None,
    part: Part | None = None,
    rejected: bool = False,
) -> Iterator[Record]:
    """Yield the records of a file of any of kinds.WITH_FIELDS or of a .source/.target pair, one at a time; with a
    `part`, only those that belong to it: others are neither checked nor counted. rejected: whether pairs that a
    reviewer rejected are among them.

    With on_bad_data="skip" a bad record is counted in `report` and passed over. Raises DataError at the first bad
    record otherwise, and always when the file is missing, empty, holds no good record at all, is an array with
    a syntax error (what follows it cannot be told apart), or is a pair with unequal numbers of lines.
    """
    report = report or ReadReport(str(path))
    return _valid_records(_candidates(path, fields), fields, on_bad_data, report, part, rejected)


def was_rejected(content) -> bool:
    """Whether a record is a pair that a reviewer rejected."""
    return isinstance(content, dict) and content.get("decision") == "rejected" and "id" in content


def count_records(path) -> int:
    """How many records, good or bad, a file has that iter_records() reads. Raises DataError."""
    return sum(parse is not blank for _, _, parse in _candidates(path))


def first_objects(path, count: int, columns=()) -> list[dict]:
    """The first records of a file that has some, unchecked, as far as they are objects: of at most `count`."""
    try:
        candidates = (parse for _, _, parse in _candidates(path, Fields((), columns=columns)) if parse is not blank)
        return [content for parse in islice(candidates, count) if isinstance(content := _attempt(parse), dict)]
    except DataError:
        return []


def _attempt(parse: Callable):
    """The content that a parser gives, None for what is bad."""
    try:
        return parse()[0]
    except DataError:
        return None


def iter_texts(
    path, on_bad_data: str = "error", report: ReadReport | None = None, field: str = "source"
) -> Iterator[Record]:
    """Yield one record with one field for each line of a text file. Raises DataError as iter_records does."""
    check_is_file(path)
    candidates = line_candidates(path, partial(_parse_text, field))
    return _valid_records(candidates, Fields(required=(field,)), on_bad_data, report or ReadReport(str(path)))


def _candidates(path, fields: Fields | None = None) -> Iterator[Candidate]:
    """What may be records of a file, none of it parsed. Raises DataError."""
    kind = kind_of(path, [column for _, column in fields.columns] if fields else ())
    if kind in (PAIR, TEXT):
        return _pair_candidates(*pair_files(path))
    check_is_file(path)
    return _json_candidates(path) if kind == JSON else table_candidates(path, kind)


def _json_candidates(path) -> Iterator[Candidate]:
    """The items of an array, the lines of JSON Lines; or, where those hold questions, each of these."""
    if begins_array(path):
        return _array_candidates(path)
    if nested_sets.is_set(path):
        return _array_candidates(path, nested_sets.KEY)
    candidates = line_candidates(path, _parse_json)
    begun = list(_up_to_one(candidates))
    candidates = chain(begun, candidates)
    if begun and begun[-1][2] is not blank and nested_sets.is_nested(_attempt(begun[-1][2])):
        return nested_sets.line_candidates(candidates)
    return candidates


def _up_to_one(candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    """The candidates up to the first that is not blank, which is the last."""
    for candidate in candidates:
        yield candidate
        if candidate[2] is not blank:
            return


def _valid_records(
    candidates: Iterator[Candidate],
    fields: Fields,
    on_bad_data: str,
    report: ReadReport,
    part: Part | None = None,
    rejected: bool = True,
) -> Iterator[Record]:
    if on_bad_data not in ON_BAD_DATA:
        raise ValueError(f"on_bad_data is {on_bad_data!r}; it must be one of {', '.join(ON_BAD_DATA)}")
    number = -1
    for path, line, parse in candidates:
        if parse is blank:
            report.blank += 1
            continue
        number += 1
        if part is not None and not part.has(number):
            continue
        content = None
        try:
            content, original = parse()
            if not rejected and was_rejected(content):
                report.rejected += 1
                continue
            checked = validate(content, fields, path, line)
            record = Record(checked, str(path), line, content if original is None else original)
        except DataError as error:
            error = nested_sets.told_with_id(error, content)
            if on_bad_data == "error":
                raise told_with_remedy(error) from None
            report.skip(error)
        else:
            report.read += 1
            yield record
    if not report.read and report.first:
        raise DataError(f"{report.path}: not one usable record; the first: {next(iter(report.first.values()))}")
    if not report.read:
        raise DataError(f"{report.path}: no records in it; put at least one there")


def _parse_text(field: str, raw: bytes, path, line: int):
    return {field: decoded(raw, path, line)}, None


def _parse_json(raw: bytes, path, line: int):
    text = decoded(raw, path, line)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"bad JSON at column {error.colno} ({error.msg})"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless nesting
        problem = f"bad JSON ({error})"
    else:
        return content, text
    raise bad_record("bad JSON", path, line, problem, "write one whole JSON object on each line")


def _array_candidates(path, key=None) -> Iterator[Candidate]:
    """The items of a JSON array, or of one in an object, with the line each begins on; the questions of nested ones."""
    nested = None
    try:
        for line, item, text in array_items(path, key):
            nested = nested_sets.is_nested(item) if nested is None else nested
            if nested:
                yield from nested_sets.questions(item, path, line, text)
            else:
                yield path, line, lambda item=item, text=text: (item, text)
    except ArrayError as error:
        kind = "bad UTF-8" if "not UTF-8" in error.problem else "bad JSON"
        advice = UTF8_ADVICE if kind == "bad UTF-8" else "write the array as [{...}, {...}]"
        if error.problem == lines.too_long()[0]:
            raise bad_record("too long", path, error.line, *lines.too_long()) from None
        problem = f"{kind} at column {error.column} ({error.problem})"
        raise bad_record(kind, path, error.line, problem, advice) from None


def _pair_candidates(source: Path, target: Path) -> Iterator[Candidate]:
    counts = [sum(1 for _ in raw_lines(file)) for file in (source, target)]
    if counts[0] != counts[1]:
        problem = f"{counts[0]} lines, but {target} has {counts[1]}"
        advice = "line i of one must belong to line i of the other"
        raise bad_record("unequal pair", source, min(counts) + 1, problem, advice)
    for (line, raw_source), (_, raw_target) in zip(raw_lines(source), raw_lines(target), strict=True):
        empty = is_blank(raw_source) and is_blank(raw_target)
        yield source, line, blank if empty else partial(_parse_pair, raw_source, raw_target, source, target, line)


def _parse_pair(raw_source: bytes, raw_target: bytes, source: Path, target: Path, line: int):
    texts = {"source": decoded(raw_source, source, line), "target": decoded(raw_target, target, line)}
    empty = [file for text, file in zip(texts.values(), (source, target), strict=True) if not text.strip()]
    if empty:
        problem = "this line is empty, its partner is not"
        raise bad_record("empty field", empty[0], line, problem, "fill in or remove both")
    return texts, None
