"""The pairs of a passage that differ most: distinct answers first, then by maximal marginal relevance (Carbonell and
Goldstein 1998) over runs of 3 characters of their questions."""

from glm.pairs.duplicates import grams, jaccard

# How much a question's own worth counts beside how much it differs.
OWN = 0.5


def chosen(candidates, count):
    """At most `count` of a passage's candidates, as they stand in it; all with None.

    A candidate is worth more the likelier its question and its answer are. Of those whose answers overlap, one is taken
    before any is taken twice.
    """
    if count is None or len(candidates) <= count:
        return list(candidates)
    ranked = sorted(candidates, key=lambda one: -(one.question_log_p + one.answer_log_p))
    worth = {id(one): 1 - rank / len(ranked) for rank, one in enumerate(ranked)}
    sets = {id(one): grams(one.question) for one in ranked}
    taken, left = [], list(ranked)
    while left and len(taken) < count:
        fresh = [one for one in left if not any(overlap(one, other) for other in taken)] or left

        def gain(one):
            likeness = max((jaccard(sets[id(one)], sets[id(other)]) for other in taken), default=0.0)
            return OWN * worth[id(one)] - (1 - OWN) * likeness

        best = max(fresh, key=gain)
        taken.append(best)
        left.remove(best)
    return [one for one in candidates if any(one is other for other in taken)]


def overlap(a, b):
    """Whether the answers of two candidates have characters in common."""
    return a.start < b.end and b.start < a.end
