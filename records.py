"""Reads data files into validated records: JSON Lines, a JSON array, .source/.target pairs, plain text.

Every record knows the file and the line it came from, and every complaint names them. Files are read line by
line, so that a set larger than memory can be streamed with iter_records. Standard library only.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from json_array import ArrayError, array_items, begins_array
from validation import DataError, Fields, bad_record, validate

JSON_SUFFIXES = (".json", ".jsonl")
PAIR_SUFFIXES = (".source", ".target")
ON_BAD_DATA = ("error", "skip")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF8_ADVICE = "save the file as UTF-8 (a GBK file: iconv -f GB18030 -t UTF-8)"

# A place and what parses it: gives the record's content or raises DataError; _blank, where there is only white space.
Candidate = tuple[Path, int, Callable[[], object]]


@dataclass(frozen=True)
class Record:
    """One validated record. An absent optional field is ""; keys that were not asked for (id) stay as they were."""

    fields: dict
    path: str
    line: int

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
    """What a reader saw: records read, records skipped by reason, the first complaint of each reason, blank lines."""

    path: str
    read: int = 0
    blank: int = 0
    skipped: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def skip(self, error: DataError) -> None:
        """Count a bad record under its reason."""
        self.skipped[error.reason] += 1
        self.first.setdefault(error.reason, str(error))

    def summary(self) -> str:
        """One line: how many were read and skipped, and the first complaint of each kind."""
        text = f"{self.path}: {self.read} records read"
        if self.blank:
            text += f", {self.blank} blank lines passed over"
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
    path, fields: Fields, on_bad_data: str = "error", report: ReadReport | None = None, part: Part | None = None
) -> Iterator[Record]:
    """Yield the records of a JSON Lines file, a JSON array of objects or a .source/.target pair, one at a time; with a
    `part`, only those that belong to it: others are neither checked nor counted.

    With on_bad_data="skip" a bad record is counted in `report` and passed over. Raises DataError at the first bad
    record otherwise, and always when the file is missing, empty, holds no good record at all, is an array with
    a syntax error (what follows it cannot be told apart), or is a pair with unequal numbers of lines.
    """
    return _valid_records(_candidates(path), fields, on_bad_data, report or ReadReport(str(path)), part)


def count_records(path) -> int:
    """How many records, good or bad, a file has that iter_records() reads. Raises DataError."""
    return sum(parse is not _blank for _, _, parse in _candidates(path))


def first_object(path) -> dict | None:
    """The first record of a JSON file if it is an object, unchecked; None if there is no such file."""
    try:
        content = next(parse() for _, _, parse in _candidates(path) if parse is not _blank)
    except (DataError, StopIteration):
        return None
    return content if isinstance(content, dict) else None


def iter_texts(path, on_bad_data: str = "error", report: ReadReport | None = None) -> Iterator[Record]:
    """Yield one record with the field "source" for each line of a text file. Raises DataError as iter_records does."""
    _check_file(path)
    candidates = _line_candidates(path, _parse_text)
    return _valid_records(candidates, Fields(required=("source",)), on_bad_data, report or ReadReport(str(path)))


def is_pair(path) -> bool:
    """Whether path is a .source or .target file, or the common stem of both, and both are there."""
    return all(file.is_file() for file in _pair_names(path))


def pair_files(path) -> tuple[Path, Path]:
    """The .source and .target file that belong to either of them or to their common stem. Raises DataError."""
    files = _pair_names(path)
    if not any(file.exists() for file in files):
        _check_file(path)
        advice = "name it .json or .jsonl (one JSON object a line), or give a pair .source/.target"
        raise DataError(f"{path}: cannot tell the format of this file; {advice}")
    for file in files:
        _check_file(file)
    return files


def find_splits(path) -> dict[str, Path | None]:
    """The "train" and "dev" file of a data set; one that is absent is None.

    A directory holds train.json and dev.json (or .jsonl, or .source/.target pairs), or a single JSON file. A single
    file is "train". Raises DataError if there is nothing, or two files for one split.
    """
    path = Path(path)
    if not path.is_dir():
        if path.suffix in PAIR_SUFFIXES or not path.exists():
            pair_files(path)
        return {"train": path, "dev": None}
    splits = {name: _split_file(path, name) for name in ("train", "dev")}
    if not any(splits.values()):
        files = [file for suffix in JSON_SUFFIXES for file in path.glob("*" + suffix)]
        if len(files) == 1:
            return {"train": files[0], "dev": None}
        raise DataError(f"{path}: no train.json or dev.json here; put them there (.jsonl will do), or give a file")
    return splits


def _split_file(directory: Path, name: str) -> Path | None:
    suffixes = (*JSON_SUFFIXES, PAIR_SUFFIXES[0])
    found = [directory / (name + suffix) for suffix in suffixes if (directory / (name + suffix)).exists()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise DataError(f"{directory}: {names} are both there; remove one of them, or give a file")
    return found[0] if found else None


def _pair_names(path) -> tuple[Path, Path]:
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in PAIR_SUFFIXES else path
    return tuple(stem.with_name(stem.name + suffix) for suffix in PAIR_SUFFIXES)


def _check_file(path) -> None:
    if Path(path).is_dir():
        raise DataError(f"{path}: is a directory; give a file")
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; check the path")


def _candidates(path) -> Iterator[Candidate]:
    """What may be records of a JSON file or of a pair, none of it parsed. Raises DataError."""
    if Path(path).suffix not in JSON_SUFFIXES:
        return _pair_candidates(*pair_files(path))
    _check_file(path)
    return _array_candidates(path) if begins_array(path) else _line_candidates(path, _parse_json)


def _valid_records(
    candidates: Iterator[Candidate], fields: Fields, on_bad_data: str, report: ReadReport, part: Part | None = None
) -> Iterator[Record]:
    if on_bad_data not in ON_BAD_DATA:
        raise ValueError(f"on_bad_data is {on_bad_data!r}; it must be one of {', '.join(ON_BAD_DATA)}")
    number = -1
    for path, line, parse in candidates:
        if parse is _blank:
            report.blank += 1
            continue
        number += 1
        if part is not None and not part.has(number):
            continue
        try:
            record = Record(validate(parse(), fields, path, line), str(path), line)
        except DataError as error:
            if on_bad_data == "error":
                raise
            report.skip(error)
        else:
            report.read += 1
            yield record
    if not report.read and report.first:
        raise DataError(f"{report.path}: not one usable record; the first: {next(iter(report.first.values()))}")
    if not report.read:
        raise DataError(f"{report.path}: no records in it; put at least one there")


def _blank():
    """Stands for the parser of a line of white space; never called."""
    raise AssertionError


def _raw_lines(path) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines without their ends (LF or CRLF) and without a byte order mark at the start."""
    with open(path, "rb") as file:
        # Bytes, because text mode would translate line ends inside a line and not tell where bad UTF-8 stands.
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(_BYTE_ORDER_MARK)
            yield number, raw.removesuffix(b"\n").removesuffix(b"\r")


def _decode(raw: bytes, path, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8"
        raise bad_record("bad UTF-8", path, line, problem, _UTF8_ADVICE) from None


def _line_candidates(path, parse: Callable) -> Iterator[Candidate]:
    for line, raw in _raw_lines(path):
        yield path, line, _blank if _is_blank(raw) else partial(parse, raw, path, line)


def _is_blank(raw: bytes) -> bool:
    return not raw.strip() or not raw.decode("utf-8", "replace").strip()


def _parse_text(raw: bytes, path, line: int):
    return {"source": _decode(raw, path, line)}


def _parse_json(raw: bytes, path, line: int):
    text = _decode(raw, path, line)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"bad JSON at column {error.colno} ({error.msg})"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless nesting
        problem = f"bad JSON ({error})"
    else:
        return content
    raise bad_record("bad JSON", path, line, problem, "write one whole JSON object on each line")


def _array_candidates(path) -> Iterator[Candidate]:
    """The items of a JSON array with the line each begins on."""
    try:
        for line, item in array_items(path):
            yield path, line, lambda item=item: item
    except ArrayError as error:
        kind = "bad UTF-8" if "not UTF-8" in error.problem else "bad JSON"
        advice = _UTF8_ADVICE if kind == "bad UTF-8" else "write the array as [{...}, {...}]"
        problem = f"{kind} at column {error.column} ({error.problem})"
        raise bad_record(kind, path, error.line, problem, advice) from None


def _pair_candidates(source: Path, target: Path) -> Iterator[Candidate]:
    counts = [sum(1 for _ in _raw_lines(file)) for file in (source, target)]
    if counts[0] != counts[1]:
        problem = f"{counts[0]} lines, but {target} has {counts[1]}"
        advice = "line i of one must belong to line i of the other"
        raise bad_record("unequal pair", source, min(counts) + 1, problem, advice)
    for (line, raw_source), (_, raw_target) in zip(_raw_lines(source), _raw_lines(target), strict=True):
        blank = _is_blank(raw_source) and _is_blank(raw_target)
        yield source, line, _blank if blank else partial(_parse_pair, raw_source, raw_target, source, target, line)


def _parse_pair(raw_source: bytes, raw_target: bytes, source: Path, target: Path, line: int):
    texts = {"source": _decode(raw_source, source, line), "target": _decode(raw_target, target, line)}
    empty = [file for text, file in zip(texts.values(), (source, target), strict=True) if not text.strip()]
    if empty:
        problem = "this line is empty, its partner is not"
        raise bad_record("empty field", empty[0], line, problem, "fill in or remove both")
    return texts
