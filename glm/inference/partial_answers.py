"""Answers kept on disk while others are still to come, so that what interrupts a run costs one batch at most."""

import hashlib
import json
from pathlib import Path

from glm import json_text
from glm.errors import UserError
from glm.files.guarded import product, write_text


class PartialAnswers:
    """OUTPUT.partial: a line that says what the answers are of, then one JSON object for each, in the order in which
    they were found.

    done: {row: its fields} of what an earlier run has left.
    """

    def __init__(self, output_file, settings, resume, writes=True):
        """settings: all that the answers depend on, for JSON. resume: whether to go on from what is there; otherwise it
        is removed. writes: whether this process adds to it. Raises UserError for answers of other settings."""
        self.path, self.writes = self.path_of(output_file), writes
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        self.done = self.read() if resume and self.path.exists() else {}
        if writes and not self.done:
            with product(self.path):
                write_text(self.path, json.dumps({"settings": self.key}) + "\n")

    @staticmethod
    def path_of(output_file):
        """Where the answers for an output file are kept."""
        return Path(f"{output_file}.partial")

    def read(self):
        """{row: fields} of the whole lines there are."""
        entries, end = [], 0
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    entry = None
                if not is_entry(entry, first=not entries):
                    break  # what was being written when the run ended
                entries.append(entry)
                end += len(line)
        if not entries or entries[0]["settings"] != self.key:
            raise UserError(
                f"{self.path}: its answers are of other data, another model or other flags; give the same ones, or "
                "leave --resume out to start anew"
            )
        if self.writes:
            with open(self.path, "r+b") as file:
                file.truncate(end)
        return {entry["row"]: entry["answer"] for entry in entries[1:]}

    def add(self, answers):
        """Keep answers, {row: fields}."""
        self.done.update(answers)
        if self.writes:
            kept = "those before are kept: make room, and --resume goes on"
            with product(self.path, kept), open(self.path, "a", encoding="utf8") as file:
                for row, answer in answers.items():
                    file.write(json_text.dumps({"row": row, "answer": answer}) + "\n")

    def remove(self):
        """Forget them: they are elsewhere now."""
        self.path.unlink(missing_ok=True)


def is_entry(entry, first):
    """Whether a line's content is what PartialAnswers writes."""
    if not isinstance(entry, dict):
        return False
    if first:
        return isinstance(entry.get("settings"), str)
    return type(entry.get("row")) is int and isinstance(entry.get("answer"), dict)
