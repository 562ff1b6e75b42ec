"""Documents: the files that a path names, read one at a time. What cannot be read is told and counted, and passed over.

A document is a text file, a Markdown file, or the passage of a record; its text is what its file has, and all offsets
are characters of that.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from glm.data.kinds import JSON_SUFFIXES
from glm.data.records import ReadReport, iter_records
from glm.data.text_lines import UTF8_ADVICE
from glm.data.validation import DataError, Fields
from glm.errors import UserError
from glm.files import lines
from glm.files.guarded import reason_of

TEXT_SUFFIXES, MARKDOWN_SUFFIXES = (".txt", ".text"), (".md", ".markdown")
SUFFIXES = (*TEXT_SUFFIXES, *MARKDOWN_SUFFIXES, *JSON_SUFFIXES)


@dataclass(frozen=True)
class Document:
    """name: what pairs call it; text: all of it; markdown: whether it has such marks."""

    name: str
    text: str
    markdown: bool = False


@dataclass
class Seen:
    """How many documents were read, and what was passed over: how often by reason, and the first of each."""

    read: int = 0
    skipped: Counter = field(default_factory=Counter)
    first: dict = field(default_factory=dict)

    def skip(self, reason: str, told: str) -> None:
        """Count what was passed over."""
        self.skipped[reason] += 1
        self.first.setdefault(reason, told)

    def told(self) -> list[str]:
        """A line for each reason."""
        return [f"{count} passed over, the first: {self.first[reason]}" for reason, count in self.skipped.items()]


def documents(path, passage_field: str, seen: Seen) -> Iterator[Document]:
    """The documents of a file or of all files below a directory, in the order of their names. Raises UserError for a
    path that is not there, or a file of another kind; of a directory, such files are passed over."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or directory; check the path")
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: cannot tell what this file is; call it .txt, .md or .jsonl")
        yield from of_file(path, path.name, passage_field, seen)
        return
    found = sorted(file for file in path.rglob("*") if file.is_file() and not is_hidden(file.relative_to(path)))
    for file in found:
        name = file.relative_to(path).as_posix()
        if file.suffix.lower() in SUFFIXES:
            yield from of_file(file, name, passage_field, seen)
        else:
            seen.skip("kind", f"{file}: cannot tell what this file is; call it .txt, .md or .jsonl")


def is_hidden(path: Path) -> bool:
    """Whether a relative path leads through a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def of_file(path: Path, name: str, passage_field: str, seen: Seen) -> Iterator[Document]:
    """The documents of a file: its text, or the passages of its records."""
    if path.suffix.lower() in JSON_SUFFIXES:
        yield from of_records(path, name, passage_field, seen)
        return
    try:
        text = text_of(path)
    except DataError as error:
        seen.skip(error.reason, str(error))
        return
    if not text.strip():
        seen.skip("empty", f"{path}: there is nothing in it")
        return
    seen.read += 1
    yield Document(name, text, path.suffix.lower() in MARKDOWN_SUFFIXES)


def of_records(path: Path, name: str, passage_field: str, seen: Seen) -> Iterator[Document]:
    """The passages of a file's records, each a document that is called after its line."""
    report = ReadReport(str(path))
    try:
        for record in iter_records(path, Fields((passage_field,)), "skip", report):
            seen.read += 1
            yield Document(f"{name}:{record.line}", record.fields[passage_field])
    except DataError as error:
        if report.read:
            raise
        seen.skip(error.reason, str(error))
        report.skipped.clear()
    for reason, count in report.skipped.items():
        seen.skipped[reason] += count
        seen.first.setdefault(reason, report.first[reason])


def text_of(path: Path) -> str:
    """The text of a file, line ends as \\n. Raises DataError."""
    try:
        if path.stat().st_size > lines.limit():
            raise DataError(f"{path}: {lines.too_long()[0]}; divide it, or raise --{lines.FLAG}", "too long")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {reason_of(error)}", "unreadable") from None
    if b"\0" in content[:4096] or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is no text (or UTF-16); {UTF8_ADVICE}", "binary")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8; {UTF8_ADVICE}", "bad UTF-8") from None
    if "\0" in text:
        raise DataError(f"{path}: holds a NUL character; is it a text?", "binary")
    return text
