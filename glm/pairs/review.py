"""A reviewer's decisions on pairs: accepted, edited, rejected, written the moment they are made.

They go to a file beside the pairs, PAIRS.reviewed.jsonl, a whole pair a line in the order of the pairs, with what was
decided; it is whole at any time. Accepted and edited pairs in it are a training file as they are; what was rejected is
passed over by whoever reads records.
"""

from contextlib import contextmanager
from pathlib import Path

from glm import json_text
from glm.data.records import iter_records
from glm.data.validation import DataError, Fields
from glm.errors import UserError
from glm.files import locks
from glm.files.guarded import product, whole_file
from glm.pairs.agreement import DECISIONS

PAIR = Fields(("id", "passage", "answer", "question"))
ACCEPTED, EDITED, REJECTED = DECISIONS


class ReviewError(UserError):
    """A decision that cannot be; the message says why, in one line."""


def reviewed_path(path) -> Path:
    """Where the decisions on a file of pairs go."""
    path = Path(path)
    return path.with_name(f"{path.stem}.reviewed.jsonl")


@contextmanager
def opened(path):
    """Context with the Review of a file of pairs, whose decisions nobody else writes meanwhile. Raises UserError."""
    with locks.held_for(reviewed_path(path)):
        yield Review(path)


class Review:
    """Pairs and the decisions on them. pairs: list of dicts; decided: {id: the dict that was written}."""

    def __init__(self, path):
        """Read a file of pairs, and the decisions that were made before. Raises UserError."""
        self.path, self.target = Path(path), reviewed_path(path)
        self.pairs = [record.fields for record in iter_records(path, PAIR)]
        self.numbers = {pair["id"]: number for number, pair in enumerate(self.pairs)}
        if len(self.numbers) < len(self.pairs):
            raise DataError(f"{path}: several pairs have one id; give a file as generate_pairs.py writes it")
        self.decided = dict(self.read_decisions())

    def read_decisions(self):
        """Yield (id, pair) of the decisions there are. Raises DataError for one on a pair that is not there."""
        if not self.target.exists() or not self.target.stat().st_size:
            return
        for record in iter_records(self.target, Fields((*PAIR.required, "decision")), rejected=True):
            pair = record.fields
            if pair["id"] not in self.numbers or pair["decision"] not in DECISIONS:
                told = "is a decision on none of the pairs here; move the file away, or give the pairs it is of"
                raise DataError(f"{record.place}: {told}")
            yield pair["id"], pair

    def summary(self) -> list[dict]:
        """For each pair its reason ("" if it was kept) and its decision (None if there is none yet)."""
        return [
            {"reason": pair.get("reason") or "", "decision": self.decided.get(pair["id"], {}).get("decision")}
            for pair in self.pairs
        ]

    def shown(self, number: int) -> dict:
        """A pair as it is now, as it was made or edited, with its number and the place of its answer in its passage.
        Raises ReviewError."""
        pair = self.pair(number)
        pair = self.decided.get(pair["id"], pair)
        return {**pair, "number": number, "place": place_of(pair)}

    def pair(self, number: int) -> dict:
        """A pair as it was made. Raises ReviewError."""
        if not 0 <= number < len(self.pairs):
            raise ReviewError(f"there is no pair {number}; there are {len(self.pairs)}")
        return self.pairs[number]

    def decide(self, number: int, decision: str, question: str | None = None, answer: str | None = None) -> dict:
        """Decide on a pair, and write it; the pair as it is then. Raises ReviewError and RunError."""
        pair = self.pair(number)
        if decision not in DECISIONS:
            raise ReviewError(f"decision is {decision!r}; it is one of {', '.join(DECISIONS)}")
        if decision == EDITED:
            pair = edited(pair, (question or "").strip(), (answer or "").strip())
        self.write({**self.decided, pair["id"]: {**pair, "decision": decision}})
        return self.shown(number)

    def undo(self, number: int) -> dict:
        """Take a decision back; the pair as it was made. Raises ReviewError and RunError."""
        undone = self.pair(number)["id"]
        self.write({pair: decision for pair, decision in self.decided.items() if pair != undone})
        return self.shown(number)

    def write(self, decided):
        """Write decisions, and have them be those that there are."""
        advice = "the last decision is not kept: make room, and decide again"
        with product(self.target, advice), whole_file(self.target) as file:
            for pair in self.pairs:
                if pair["id"] in decided:
                    file.write(json_text.dumps(decided[pair["id"]]) + "\n")
        self.decided = decided


def place_of(pair: dict) -> int:
    """Where in its passage a pair's answer stands, -1 if it does not."""
    start = pair.get("start", -1) - pair.get("passage_start", 0) if "passage_start" in pair else -1
    if start >= 0 and pair["passage"].startswith(pair["answer"], start):
        return start
    return pair["passage"].find(pair["answer"])


def edited(pair: dict, question: str, answer: str) -> dict:
    """A pair with another question or answer. Raises ReviewError where one is missing, or the answer does not stand in
    the passage."""
    if not question or not answer:
        raise ReviewError("a pair needs a question and an answer")
    place = nearest(pair["passage"], answer, max(place_of(pair), 0))
    if place < 0:
        raise ReviewError("the answer has to stand in the passage, character for character")
    changed = {**pair, "question": question, "answer": answer}
    changed["original"] = {"question": pair["question"], "answer": pair["answer"]}
    if "passage_start" in pair:
        start = pair["passage_start"] + place
        changed |= {"start": start, "end": start + len(answer)}
    return changed


def nearest(text: str, part: str, place: int) -> int:
    """Where a part of a text stands that is nearest to a place, -1 if it is nowhere."""
    places = []
    found = text.find(part)
    while found >= 0:
        places.append(found)
        found = text.find(part, found + 1)
    return min(places, key=lambda one: abs(one - place), default=-1)
