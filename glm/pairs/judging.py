"""Which pairs hold: those whose question the model answers back with the answer that it was asked for."""

import re
from dataclasses import dataclass

from glm.command_line import UsageError
from glm.metrics import character_f1, normalize
from glm.pairs.proposing import MARKS

LEVELS = ("exact", "beam", "f1", "all")
# Why a pair is not kept.
NO_QUESTION, NOT_ANSWERED, DUPLICATE, NOT_CHOSEN = "no_question", "not_answered", "duplicate", "not_chosen"


@dataclass(frozen=True)
class Level:
    """What is asked of a pair: "exact", the model's answer is its answer; "beam", one of the model's best answers is;
    "f1", the characters of the two agree so far; "all", nothing."""

    name: str
    least: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Level":
        """The Level of a flag, as in exact or f1=0.6. Raises UsageError."""
        name, sign, number = text.partition("=")
        if name not in LEVELS or (name == "f1") != bool(sign):
            raise UsageError(f"--keep {text}: it is exact, beam, all, or f1=0.6 with any number up to 1")
        if not sign:
            return cls(name)
        if not re.fullmatch(r"\d*\.?\d+", number) or not 0 < float(number) <= 1:
            raise UsageError(f"--keep {text}: F1 is a number above 0 and at most 1, as in f1=0.6")
        return cls(name, float(number))

    def holds(self, candidate) -> bool:
        """Whether a judged pair is what is asked for."""
        return {
            "exact": candidate.exact,
            "beam": candidate.beam,
            "f1": candidate.f1 >= self.least,
            "all": True,
        }[self.name]


def judge(candidate, level: Level) -> None:
    """Compare the model's answers with a candidate's own; a reason where the pair is not what `level` asks for."""
    for name, value in round_trip(candidate.answer, candidate.answers).items():
        setattr(candidate, name, value)
    if not any(character.isalnum() for character in candidate.question):
        candidate.reason = NO_QUESTION
    elif not level.holds(candidate):
        candidate.reason = NOT_ANSWERED


def round_trip(answer: str, texts) -> dict:
    """What comes back of an answer in a model's own ones, best first, as pairs have it: exact, beam and f1."""
    found = [bare(text) for text in texts]
    return {
        "exact": found[:1] == [bare(answer)],
        "beam": bare(answer) in found,
        "f1": character_f1(texts[0], answer) if found else 0.0,
    }


def bare(text: str) -> str:
    """A text as answers are compared: normalized, without marks around it."""
    return normalize(text).strip(MARKS)
