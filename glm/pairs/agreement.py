"""How far two reviewers agree on the pairs that both have decided on."""

from collections import Counter

from glm.data.records import iter_records
from glm.data.validation import DataError, Fields
from glm.errors import UserError

DECISIONS = ("accepted", "edited", "rejected")


def decisions_of(path) -> dict[str, str]:
    """{id of a pair: decision} of a reviewer's file. Raises DataError."""
    found = {}
    for record in iter_records(path, Fields(("id", "decision")), rejected=True):
        decision = record.fields["decision"]
        if decision not in DECISIONS:
            raise DataError(f"{record.place}: decision is {decision!r}; it is one of {', '.join(DECISIONS)}")
        found[record.fields["id"]] = decision
    return found


def agreement(first: dict, second: dict) -> dict:
    """How many pairs both have decided on, how many one alone, the percentage that they agree on, and Cohen's kappa
    (1960, "A coefficient of agreement for nominal scales"): of the decisions, and of whether a pair is kept. Raises
    UserError where they have none in common."""
    both = [pair for pair in first if pair in second]
    if not both:
        raise UserError("the two files have decided on no pair in common; are they of the same pairs?")
    pairs = [(first[pair], second[pair]) for pair in both]
    kept = [tuple(decision != "rejected" for decision in pair) for pair in pairs]
    return {
        "pairs": len(both),
        "only_first": len(first) - len(both),
        "only_second": len(second) - len(both),
        "agreement": 100 * sum(a == b for a, b in pairs) / len(pairs),
        "kappa": kappa(pairs),
        "kappa_of_kept": kappa(kept),
    }


def kappa(pairs) -> float | None:
    """Cohen's kappa of pairs of decisions: 1 where all agree, 0 where they agree as often as by chance; None where both
    have always decided the same one thing, for which it is not defined."""
    count = len(pairs)
    observed = sum(a == b for a, b in pairs) / count
    firsts, seconds = (Counter(decisions) for decisions in zip(*pairs, strict=True))
    by_chance = sum(firsts[decision] * seconds[decision] for decision in firsts) / count**2
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
