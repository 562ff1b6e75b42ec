"""What is known of a pair on its way from an answer to a judgement."""

from dataclasses import dataclass, field

from glm.pairs.splitting import Passage


@dataclass
class Candidate:
    """A pair of a passage.

    passage: splitting.Passage. start, end: of the answer, in characters of the document. question: the question, with
    question_log_p, its log probability. answers: what the model answers to it, best first; answer_log_p: the log
    probability of the first. exact, beam: whether the first, or any, is the pair's answer; f1: of the first, by
    characters, 0 to 1. duplicate_of: the id of a pair that was kept and asks the same. reason: why the pair is not
    kept, None if it is.
    """

    passage: Passage
    start: int
    end: int
    question: str = ""
    question_log_p: float = 0.0
    answers: tuple = field(default=())
    answer_log_p: float = 0.0
    exact: bool = False
    beam: bool = False
    f1: float = 0.0
    duplicate_of: str | None = None
    reason: str | None = None

    @property
    def id(self) -> str:
        """The document, and where in it the passage and the answer are: of no other pair."""
        return f"{self.passage.document}#{self.passage.start}:{self.start}-{self.end}"

    @property
    def answer(self) -> str:
        """The answer as it stands in the document."""
        return self.passage.text[self.start - self.passage.start : self.end - self.passage.start]

    def record(self) -> dict:
        """The pair as a line of a file has it."""
        return {
            "id": self.id,
            "document": self.passage.document,
            "start": self.start,
            "end": self.end,
            "passage_start": self.passage.start,
            "passage": self.passage.text,
            "answer": self.answer,
            "question": self.question,
            "question_log_p": round(self.question_log_p, 2),
            "answer_log_p": round(self.answer_log_p, 2),
            "model_answer": self.answers[0] if self.answers else "",
            "round_trip": {"exact": self.exact, "beam": self.beam, "f1": round(self.f1, 4)},
            "duplicate_of": self.duplicate_of,
            "kept": self.reason is None,
            "reason": self.reason,
        }
