"""Pairs kept on disk while others are still to come, a window of passages at a time: what interrupts a run costs one
window at most. Read from its beginning, never in memory as a whole."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from glm import json_text
from glm.errors import UserError
from glm.files.guarded import product, write_text
from glm.inference.partial_answers import whole_lines


class Kept:
    """A file with a line that says what the pairs are of, one for each pair, and one that counts the passages after
    each window.

    passages: how many are done.
    """

    def __init__(self, path, key, resume):
        """key: stands for all that pairs depend on. resume: whether to go on from what is there; otherwise it is
        removed. Raises UserError for pairs of other settings."""
        self.path, self.passages, self.size = Path(path), 0, 0
        if resume and self.path.exists():
            self.check(key)
        else:
            with product(self.path):
                write_text(self.path, json.dumps({"settings": key}) + "\n")

    def check(self, key):
        """Find the last whole window there is, and cut off what was being written when the run ended."""
        size = 0
        for entry, length in entries(self.path):
            if not size and entry.get("settings") != key:
                break
            size += length
            if "pair" not in entry:
                self.size, self.passages = size, entry.get("passages", 0)
        if not self.size:
            raise UserError(
                f"{self.path}: its pairs are of other documents, another model or other flags; give the same ones, or "
                "leave --resume out to start anew"
            )
        with open(self.path, "r+b") as file:
            file.truncate(self.size)

    def add(self, pairs, passages):
        """Keep the pairs, dicts, of a window of so many passages."""
        self.passages += passages
        lines = [json_text.dumps({"pair": pair}) + "\n" for pair in pairs]
        lines.append(json.dumps({"passages": self.passages}) + "\n")
        advice = "those before are kept: make room, and --resume goes on"
        with product(self.path, advice), open(self.path, "a", encoding="utf8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def pairs(self) -> Iterator[dict]:
        """All pairs of whole windows, in order."""
        for entry, _ in entries(self.path):
            if "pair" in entry:
                yield entry["pair"]

    def remove(self):
        """Forget them: they are elsewhere now."""
        self.path.unlink(missing_ok=True)


def entries(path) -> Iterator[tuple[dict, int]]:
    """(entry, bytes of its line) of each line, up to the first that is not whole."""
    return whole_lines(path, lambda entry, first: isinstance(entry, dict))
