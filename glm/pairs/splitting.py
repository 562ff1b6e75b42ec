"""A document → passages: parts of its text that end where sentences do, at most so many tokens long. Together they are
all of it, so that nothing is silently cut; only white space between them is left out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from glm.pairs.documents import Document

# A sentence: up to its end and the quotes and brackets that close there, or up to the end of a line.
_SENTENCE = re.compile(r"[^。！？!?…；;\n]*(?:[。！？!?…；;]+[”’」』）)\]】》\"']*|\n|$)")
# What is no text in Markdown: code between fences, comments, lines that only draw.
_NO_TEXT = re.compile(
    r"^(```|~~~).*?(?:^\1[^\n]*$|\Z)|<!--.*?-->|^[ \t]*([-*_=|:][-*_=|: \t]*)$", re.MULTILINE | re.DOTALL
)
_HEADING = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
# What a line of Markdown begins with that is none of its text.
_MARKS = re.compile(r"[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|[-*+][ \t]+|\d{1,3}[.)][ \t]+)*")
# Where a sentence that is too long is divided rather than anywhere.
_PAUSE = re.compile(r"[，、,：:\s—]+")


@dataclass(frozen=True)
class Passage:
    """Part of a document: its text from character start to end. divided: whether a sentence is cut at its end, which is
    longer than a passage."""

    document: str
    start: int
    end: int
    text: str
    divided: bool = False


def passages_of(document: Document, count, length: int, overlap: int = 0) -> Iterator[Passage]:
    """The passages of a document, in order.

    count(text): the tokens of a text. length: the most that a passage has. overlap: as many tokens, of whole sentences
    at the end of a passage, may be repeated at the beginning of the next; 0 repeats none. No passage reaches from one
    section of Markdown into the next, or over what is no text there.
    """
    for section in sections(document):
        yield from passages_of_section(document, section, count, length, overlap)


def passages_of_section(document: Document, section, count, length: int, overlap: int) -> Iterator[Passage]:
    """The passages of a part of a document, (start, end); see passages_of()."""
    held, new = [], 0
    for start, end, divided in sentences_of(document, section, count, length):
        if new and count(document.text[held[0][0] : end]) > length:
            yield joined(document, held)
            held, new = repeated(document.text, held, count, overlap), 0
            while held and count(document.text[held[0][0] : end]) > length:
                held = held[1:]
        held.append((start, end, divided))
        new += 1
    if new:
        yield joined(document, held)


def joined(document: Document, sentences) -> Passage:
    """The Passage from the first of some sentences to the last."""
    start, end = sentences[0][0], sentences[-1][1]
    return Passage(document.name, start, end, document.text[start:end], sentences[-1][2])


def repeated(text: str, sentences, count, overlap: int):
    """The last sentences, as many as have no more than `overlap` tokens together, but not all of them."""
    kept = []
    for sentence in reversed(sentences[1:]):
        if count(text[sentence[0] : sentences[-1][1]]) > overlap:
            break
        kept.insert(0, sentence)
    return kept


def sentences_of(document: Document, section, count, length: int) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is divided at its end) of the sentences of a section, without white space around them,
    those longer than `length` tokens in parts."""
    place, last = section
    while place < last:
        end = max(_SENTENCE.match(document.text, place, last).end(), place + 1)
        if (solid := stripped(document.text, place, end, document.markdown)) is not None:
            yield from divided(document.text, *solid, count, length)
        place = end


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences of a text, without white space around them."""
    whole = Document("", text)
    return [(start, end) for start, end, _ in sentences_of(whole, (0, len(text)), len, len(text))]


def sections(document: Document) -> Iterator[tuple[int, int]]:
    """(start, end) of the parts of a document that are text, in Markdown each from a heading to the next."""
    text, place = document.text, 0
    for found in _NO_TEXT.finditer(text) if document.markdown else ():
        yield from between_headings(text, place, found.start())
        place = found.end()
    if document.markdown:
        yield from between_headings(text, place, len(text))
    else:
        yield place, len(text)


def between_headings(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A part of a text, divided in front of its headings."""
    for heading in _HEADING.finditer(text, start, end):
        yield start, heading.start()
        start = heading.start()
    yield start, end


def stripped(text: str, start: int, end: int, markdown: bool) -> tuple[int, int] | None:
    """A stretch without white space around it, and of a line of Markdown without the marks in front; None if nothing is
    left."""
    if markdown and (start == 0 or text[start - 1] == "\n"):
        start = max(start, min(end, _MARKS.match(text, start, end).end()))
    part = text[start:end]
    start, end = start + len(part) - len(part.lstrip()), start + len(part.rstrip())
    return (start, end) if start < end else None


def divided(text: str, start: int, end: int, count, length: int) -> Iterator[tuple[int, int, bool]]:
    """A sentence in parts of at most `length` tokens, which end at pauses as far as there are some."""
    while count(text[start:end]) > length:
        cut = start + longest_beginning(text[start:end], count, length)
        pauses = [
            found.end() for found in _PAUSE.finditer(text, start, cut) if found.end() > start + (cut - start) // 2
        ]
        cut = pauses[-1] if pauses else cut
        if (part := stripped(text, start, cut, False)) is not None:
            yield *part, True
        start = cut
    if (part := stripped(text, start, end, False)) is not None:
        yield *part, False


def longest_beginning(text: str, count, length: int) -> int:
    """Characters, at least one, of the longest beginning of a text that has no more than `length` tokens; found by
    halves, so that few are counted."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= length:
            low = middle
        else:
            high = middle - 1
    return low
