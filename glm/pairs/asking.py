"""Candidates → their questions."""

from glm.data.templates import TASKS
from glm.pairs.proposing import place_of


def ask(candidates, answer):
    """Give candidates their questions.

    answer(examples): (text, its log probability) for each of some templates.Examples.
    """
    examples = [
        TASKS["ask"].example(
            {"context": candidate.passage.text, "answer": candidate.answer}, place=place_of(candidate.passage)
        )
        for candidate in candidates
    ]
    for candidate, (text, log_p) in zip(candidates, answer(examples), strict=True):
        candidate.question, candidate.question_log_p = text.strip(), log_p
