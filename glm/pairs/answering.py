"""Questions → what the model answers to them, which it reads beside the passage alone."""

from glm.data.templates import TASKS
from glm.pairs.proposing import place_of


def answer_back(candidates, answer):
    """Give candidates that have a question the model's answers to it.

    answer(examples): (texts, log probabilities), the best first, for each of some templates.Examples.
    """
    asked = [candidate for candidate in candidates if candidate.question]
    examples = [
        TASKS["answer"].example(
            {"question": candidate.question, "context": candidate.passage.text}, place=place_of(candidate.passage)
        )
        for candidate in asked
    ]
    for candidate, (texts, log_ps) in zip(asked, answer(examples), strict=True):
        candidate.answers, candidate.answer_log_p = tuple(texts), log_ps[0]
