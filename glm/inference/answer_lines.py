"""What was generated for a prompt, and the line of JSON Lines that says it: the record as it was read with the
prediction at its end, or source, target and prediction."""

from collections import Counter
from dataclasses import dataclass

from glm.data.examples import Encoded
from glm.files import json_object
from glm.files.guarded import whole_file


@dataclass
class Answer:
    """A prompt, examples.Encoded, with what was generated for it.

    predictions: the texts, best first. scores: theirs, if they were asked for; see GenerationConfig.output_scores.
    """

    row: Encoded
    predictions: tuple[str, ...]
    scores: tuple[float, ...] | None = None

    @property
    def source(self):
        """What the model has read."""
        return self.row.source

    @property
    def target(self):
        """What was to be generated, None where that is not known."""
        return self.row.example.target

    @property
    def prediction(self):
        """The best text."""
        return self.predictions[0]

    def distinct(self):
        """The same with each text once, and without empty ones behind the first: a text may be spelled by several
        sequences of pieces, and there may be fewer texts than beams."""
        texts = self.predictions
        kept = [
            0,
            *(number for number in range(1, len(texts)) if texts[number] and texts[number] not in texts[:number]),
        ]
        scores = self.scores and tuple(self.scores[number] for number in kept)
        return Answer(self.row, tuple(self.predictions[number] for number in kept), scores)

    def generated(self):
        """What was generated, as fields of a line: lists where there are several texts."""
        several = len(self.predictions) > 1
        fields = {"prediction": self.prediction, "predictions": list(self.predictions) if several else None}
        fields["score"] = self.scores[0] if self.scores else None
        fields["scores"] = list(self.scores) if self.scores and several else None
        return without_none(fields)

    @classmethod
    def of_generated(cls, row, fields):
        """The Answer that generated() made fields of."""
        scores = fields.get("scores") or ([fields["score"]] if "score" in fields else None)
        predictions = fields.get("predictions") or [fields["prediction"]]
        return cls(row, tuple(predictions), scores and tuple(scores))


def without_none(fields):
    """A dict without the fields that are None."""
    return {name: value for name, value in fields.items() if value is not None}


def prompt_line(answer):
    """source, target where it is known, and what was generated."""
    return json_object.dumps(without_none({"source": answer.source, "target": answer.target}) | answer.generated())


def evaluation_line(answer):
    """prompt_line(), after the record's id if it has one, and the task where there are several."""
    example = answer.row.example
    before = without_none({"id": example.record_id, "task": example.task or None})
    return json_object.dumps(before)[:-1] + ", " + prompt_line(answer)[1:] if before else prompt_line(answer)


class RecordLines:
    """Makes lines of records as they were read, fields that are not asked for included, and what was generated.

    with_source: whether lines also say what the model has read. replaced: how many records had a field of a line's own
    already, by name.
    """

    def __init__(self, with_source=False):
        self.with_source, self.count, self.replaced = with_source, 0, Counter()

    def __call__(self, answer):
        """The line of an answer's record."""
        added = ({"source": answer.source} if self.with_source else {}) | answer.generated()
        line, replaced = json_object.with_members(answer.row.example.record, added)
        self.count += 1
        self.replaced.update(replaced)
        return line

    def told(self):
        """Which fields of the records are not in the lines, in one line; None where all are."""
        if not self.replaced:
            return None
        had = ", ".join(f"{name!r} ({count} of {self.count} records)" for name, count in self.replaced.items())
        return f"the new fields have replaced those that records had already: {had}"


def write_lines(lines, path):
    """Write lines, the file whole. Raises OSError."""
    with whole_file(path) as file:
        for line in lines:
            file.write(line + "\n")
