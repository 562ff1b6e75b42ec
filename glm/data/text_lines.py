"""The lines of a file as what may be records: decoded when they are parsed, so that a bad one can be left out. Standard
library only."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from glm.data.validation import bad_record
from glm.files import lines

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF8_ADVICE = "save the file as UTF-8 (a GBK file: iconv -f GB18030 -t UTF-8)"

# A place and what parses it: gives the record's content and what it is in the file (its JSON text, or an object to make
# one of; None: the content), or raises DataError; blank, where there is only white space.
Candidate = tuple[Path, int, Callable[[], tuple[object, object]]]


def blank():
    """Stands for the parser of a line of white space; never called."""
    raise AssertionError


def bad(error) -> Callable:
    """The parser of what is known to be bad: raises the error."""

    def parse():
        raise error

    return parse


def raw_lines(path) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers and lines without their ends (LF or CRLF) and without a byte order mark at the start; None for one
    that is too long."""
    # Bytes, because text mode would translate line ends inside a line and not tell where bad UTF-8 stands.
    for number, raw in lines.numbered_lines(path):
        if number == 1 and raw is not None:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        yield number, raw and raw.removesuffix(b"\r")


def decoded(raw: bytes | None, path, line: int) -> str:
    """A line's text. Raises DataError."""
    if raw is None:
        raise bad_record("too long", path, line, *lines.too_long())
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8"
        raise bad_record("bad UTF-8", path, line, problem, UTF8_ADVICE) from None


def line_candidates(path, parse: Callable) -> Iterator[Candidate]:
    """Each line with parse(raw, path, line)."""
    for line, raw in raw_lines(path):
        yield path, line, blank if is_blank(raw) else partial(parse, raw, path, line)


def is_blank(raw: bytes | None) -> bool:
    """Whether a line holds white space alone."""
    if raw is None:
        return False
    return not raw.strip() or not raw.decode("utf-8", "replace").strip()
