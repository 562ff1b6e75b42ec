"""Passages → candidates: answers that are in them, the likeliest first, by a search bound to the passage."""

from glm.data.allowed_texts import passage_of
from glm.data.templates import TASKS
from glm.pairs.candidates import Candidate

# What no answer begins or ends with.
MARKS = "，。；：、！？…,.;:!? \t\n\r\u3000"


def proposed(passages, answer, tokenizer, boundaries):
    """Candidates of passages, a list for each.

    answer(examples): texts of each of some templates.Examples, the likeliest first, all of them runs of its context.
    """
    examples = [TASKS["extract"].example({"context": passage.text}, place=place_of(passage)) for passage in passages]
    return [
        candidates_of(passage, texts, tokenizer, boundaries)
        for passage, texts in zip(passages, answer(examples), strict=True)
    ]


def place_of(passage):
    """Where a passage is, for messages."""
    return f"{passage.document}:{passage.start}"


def candidates_of(passage, texts, tokenizer, boundaries):
    """Candidates of some texts, the first place of each; none twice, and none of marks alone."""
    spelled, found = passage_of(passage.text, tokenizer, boundaries), {}
    for text in texts:
        place = spelled.find(text)
        if place is not None and (span := without_marks(passage.text, *place)) is not None:
            found.setdefault(span, Candidate(passage, passage.start + span[0], passage.start + span[1]))
    return list(found.values())


def without_marks(text, start, end):
    """(start, end) of a part of a text without the marks around it; None if nothing is left."""
    while start < end and text[start] in MARKS:
        start += 1
    while start < end and text[end - 1] in MARKS:
        end -= 1
    return (start, end) if start < end else None
