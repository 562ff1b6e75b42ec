"""Answers kept on disk while others are still to come, so that what interrupts a run costs one batch at most.

A file is gone through once, from its beginning, and never in memory as a whole.
"""

import hashlib
import json
from pathlib import Path

from glm import json_text
from glm.errors import UserError
from glm.files.guarded import product, write_text
from glm.inference.parts import WHOLE

# The last line of a part that has all its answers.
COMPLETE = {"complete": True}


def key_of(settings):
    """A text that stands for all that answers depend on, which JSON takes or str() tells."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def path_of(output_file, part=WHOLE):
    """Where the answers for an output file, or a parts.Part of them, are kept."""
    if part.count == 1:
        return Path(f"{output_file}.partial")
    return Path(f"{output_file}.part-{part.number + 1}-of-{part.count}.partial")


class PartialAnswers:
    """A file with a line that says what the answers are of, then one JSON object for each, window after window, and
    inside of one in the order in which they were found.

    count: how many there are. is_complete: whether no more are to come.
    """

    def __init__(self, path, key, resume, writes=True):
        """key: see key_of(). resume: whether to go on from what is there; otherwise it is removed. writes: whether this
        process adds to it. Raises UserError for answers of other settings."""
        self.path, self.key, self.writes = Path(path), key, writes
        self.count, self.is_complete, self.size = 0, False, 0
        if resume and self.path.exists():
            self.check()
        elif writes:
            with product(self.path):
                write_text(self.path, json.dumps({"settings": key}) + "\n")
        self.entries = self.read()
        self.ahead = next(self.entries, None)

    def check(self):
        """Count the whole lines there are, and cut off what was being written when the run ended."""
        last = {}
        for entry, size in whole_lines(self.path):
            if not self.size and entry["settings"] != self.key:
                break
            self.count += "row" in entry
            self.size, last = self.size + size, entry
        if not self.size:
            raise UserError(
                f"{self.path}: its answers are of other data, another model or other flags; give the same ones, or "
                "leave --resume out to start anew"
            )
        self.is_complete = last == COMPLETE
        if self.writes:
            with open(self.path, "r+b") as file:
                file.truncate(self.size)

    def read(self):
        """Yield (row, fields) of the answers that were there at first."""
        left = self.size
        for entry, size in whole_lines(self.path) if left else ():
            if "row" in entry:
                yield entry["row"], entry["answer"]
            left -= size
            if left <= 0:
                return

    def before(self, row):
        """{row: fields} of answers there were at first, as far as they are of rows before one; each is given once."""
        found = {}
        while self.ahead is not None and self.ahead[0] < row:
            number, fields = self.ahead
            found[number] = fields
            self.ahead = next(self.entries, None)
        return found

    def add(self, answers):
        """Keep answers, {row: fields}."""
        self.count += len(answers)
        self.append({"row": row, "answer": answer} for row, answer in answers.items())

    def complete(self):
        """Say that no more are to come."""
        if not self.is_complete:
            self.append([COMPLETE])
        self.is_complete = True

    def append(self, entries):
        """Write lines, if this process does."""
        if self.writes:
            kept = "those before are kept: make room, and --resume goes on"
            with product(self.path, kept), open(self.path, "a", encoding="utf8") as file:
                file.write("".join(json_text.dumps(entry) + "\n" for entry in entries))

    def remove(self):
        """Forget them: they are elsewhere now."""
        self.path.unlink(missing_ok=True)


def is_answer(entry, first):
    """Whether a line's content is what PartialAnswers writes."""
    if not isinstance(entry, dict):
        return False
    if first:
        return isinstance(entry.get("settings"), str)
    return entry == COMPLETE or (type(entry.get("row")) is int and isinstance(entry.get("answer"), dict))


def whole_lines(path, is_entry=is_answer):
    """Yield (entry, bytes of its line) of a file of JSON Lines, up to the first line that is none.

    is_entry(content, first=whether it is the first line): whether a line's content is one.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                entry = None
            if not is_entry(entry, first=not number):
                return
            yield entry, len(line)


def is_complete(path, key):
    """Whether a file has all answers of its part, and they are of these settings."""
    try:
        with open(path, "rb") as file:
            first = file.readline()
            end = json.dumps(COMPLETE).encode() + b"\n"
            file.seek(max(0, file.seek(0, 2) - len(end)))
            return file.read() == end and json.loads(first) == {"settings": key}
    except (OSError, ValueError, RecursionError):
        return False
