"""Answers kept on disk while others are still to come, so that what interrupts a run costs one batch at most."""

import hashlib
import json
from pathlib import Path

from errors import UserError


class PartialAnswers:
    """OUTPUT.partial: a line that says what the answers are of, then one JSON object for each, in the order in which
    they were found.

    done: {row: its fields} of what an earlier run has left.
    """

    def __init__(self, output_file, settings, resume, writes=True):
        """settings: all that the answers depend on, for JSON. resume: whether to go on from what is there; otherwise it
        is removed. writes: whether this process adds to it. Raises UserError for answers of other settings."""
        self.path, self.writes = Path(f"{output_file}.partial"), writes
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        self.done = self.read() if resume and self.path.exists() else {}
        if writes and not self.done:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"settings": self.key}) + "\n", encoding="utf8")

    def read(self):
        """{row: fields} of the whole lines there are."""
        lines = self.path.read_text(encoding="utf8", errors="replace").splitlines(keepends=True)
        entries, end = [], 0
        for line in lines:
            try:
                entry = json.loads(line) if line.endswith("\n") else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                break  # what was being written when the run ended
            entries.append(entry)
            end += len(line.encode())
        if not entries or entries[0].get("settings") != self.key:
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
            with open(self.path, "a", encoding="utf8") as file:
                for row, answer in answers.items():
                    file.write(json.dumps({"row": row, "answer": answer}, ensure_ascii=False) + "\n")

    def remove(self):
        """Forget them: they are elsewhere now."""
        self.path.unlink(missing_ok=True)
