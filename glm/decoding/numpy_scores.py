"""From logits to chosen pieces in NumPy, one row of logits a text, each row by rules of its own.

What scores.py does in tensor operations, by the same definitions.
"""

import numpy as np

from glm.decoding.generation_config import BANNED

# As many of the likeliest pieces are looked at before a whole vocabulary is sorted.
CANDIDATES = 256
# The largest numbers of a row are among those of the blocks of this size that have the largest ones.
BLOCK = 64


def ban_repeated_ngrams(logits, histories, size):
    """Lower logits [rows, vocab] of the pieces that would complete an n-gram of this size which a row's history, int64
    [n], has already; 0 bans none."""
    if not size:
        return
    for row, history in zip(logits, histories, strict=True):
        if len(history) >= size:
            windows = np.lib.stride_tricks.sliding_window_view(history, size)
            same = (windows[:, :-1] == history[len(history) - size + 1 :]).all(axis=1)
            row[np.unique(windows[same, -1])] += BANNED


def penalize(logits, texts, limits):
    """Lower logits [rows, vocab] of the pieces that a row's text has already, an iterable of int64 [n].

    limits: of each row (repetition, presence, frequency), float32 [rows, 3]; see GenerationConfig.
    """
    for row, text, (repetition, presence, frequency) in zip(logits, texts, limits, strict=True):
        pieces, counts = np.unique(text, return_counts=True)
        z = row[pieces]
        taken = presence + frequency * counts.astype("float32")
        row[pieces] = np.where(z > 0, z / repetition, z * repetition) - taken


def not_finite(logits):
    """bool [rows]: whether a row of logits [rows, vocab] has NaN or infinity in it."""
    return ~np.isfinite(logits.sum(axis=1))


def softmax(logits):
    """Probabilities [rows, vocab]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def from_largest(logits):
    """Logits [rows, vocab] less the largest of their row: of the same probabilities, and those of likely pieces, whose
    logarithms are near 0, lose no digits where log_normalizer() is subtracted."""
    return logits - logits.max(axis=1, keepdims=True)


def log_normalizer(logits):
    """log of the sum of exp over the last axis, [rows, 1]."""
    largest = logits.max(axis=1, keepdims=True)
    return largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))


def top(values, count):
    """(the `count` largest of each row of values [rows, n], the largest first; their places). Of equal ones the first
    come first."""
    rows, n = values.shape
    blocks = n // BLOCK
    places = np.broadcast_to(np.arange(n), values.shape)
    if blocks > 2 * count:
        maxima = values[:, : blocks * BLOCK].reshape([rows, blocks, BLOCK]).max(axis=2)
        best = np.sort(first_of_largest(maxima, count), axis=1)
        places = (best[:, :, None] * BLOCK + np.arange(BLOCK)).reshape([rows, -1])
        rest = np.broadcast_to(np.arange(blocks * BLOCK, n), [rows, n - blocks * BLOCK])
        places = np.concatenate([places, rest], axis=1)
    found = np.take_along_axis(places, first_of_largest(np.take_along_axis(values, places, axis=1), count), axis=1)
    return np.take_along_axis(values, found, axis=1), found


def first_of_largest(values, count):
    """Places of the `count` largest of each row, the largest first, of equal ones the first."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def kept_probabilities(logits, temperature, top_k, top_p):
    """Probabilities [rows, vocab] at a temperature, 0 but for the top_k likeliest pieces and, of all, the smallest set
    that reaches top_p; not renormalised. Of pieces that are equally likely the first ones are kept.

    temperature, top_p: float32 [rows]; top_k: int64 [rows], 0 for all.
    """
    probabilities = softmax(logits / temperature[:, None])
    filtered = np.flatnonzero((top_k > 0) | (top_p < 1))
    if not filtered.size:
        return probabilities
    logits, likely, top_k, top_p = logits[filtered], probabilities[filtered], top_k[filtered], top_p[filtered]
    count = min(CANDIDATES, likely.shape[1])
    _, places = top(logits, count)
    enough = (np.take_along_axis(likely, places, axis=1).sum(axis=1) >= top_p) | ((top_k > 0) & (top_k <= count))
    if not enough.all():
        places = first_of_largest(logits, likely.shape[1])
    best = np.take_along_axis(likely, places, axis=1)
    rank, before = np.arange(best.shape[1]), np.cumsum(best, axis=1) - best
    keep = (rank < top_k[:, None]) | (top_k[:, None] == 0)
    keep &= (before < top_p[:, None]) | (rank == 0)
    kept = np.zeros_like(likely)
    np.put_along_axis(kept, places, best * keep, axis=1)
    probabilities[filtered] = kept
    return probabilities


def draw(weights, noise):
    """Draw places by the inverse of the cumulative distribution, without replacement.

    weights: [rows, n]. noise: [rows, draws], uniform in [0, 1). Gives places [rows, draws] int64; a row with fewer
    places of positive weight than draws gives place 0 for the rest.
    """
    drawn = np.zeros(noise.shape, "int64")
    weights = weights.copy() if noise.shape[1] > 1 else weights
    for column in range(noise.shape[1]):
        cumulative = np.cumsum(weights, axis=1)
        threshold = noise[:, column : column + 1] * cumulative[:, -1:]
        place = (cumulative <= threshold).sum(axis=1)
        # Rounding may carry the sum past the last place that has weight.
        last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(axis=1)
        last[~(weights > 0).any(axis=1)] = 0
        drawn[:, column] = np.minimum(place, last)
        if noise.shape[1] > 1:
            np.put_along_axis(weights, drawn[:, column : column + 1], 0, axis=1)
    return drawn


def best_extensions(normalizers, biased, open_scores):
    """The 2 * beams best extensions of the open texts of each prompt, best first.

    normalizers: [prompts * beams, 1], log_normalizer() of what the model gave; biased: [prompts * beams, vocab],
    lowered for what must not be chosen. open_scores: [prompts, beams], log probabilities.
    Gives scores, parents (which beam) and pieces, each [prompts, 2 * beams].
    """
    prompts, beams = open_scores.shape
    # The best 2 * beams of a prompt are among the best 2 * beams of each of its rows.
    count = min(2 * beams, biased.shape[1])
    best, pieces = top(biased, count)
    totals = (best - normalizers + open_scores.reshape([-1, 1])).reshape([prompts, beams * count])
    scores, places = top(totals, 2 * beams)
    return scores, places // count, np.take_along_axis(pieces.reshape([prompts, -1]), places, axis=1)


def drawn_extensions(probabilities, open_scores, noise, lost=BANNED):
    """As many extensions as best_extensions() gives, drawn by probability and best first.

    probabilities: [prompts * beams, vocab], 0 for what must not be chosen. noise: [prompts, 2 * beams]. lost: added to
    the scores of extensions that must not win: with fewer candidates than draws, some come again, and some are none.
    """
    (prompts, beams), vocab = open_scores.shape, probabilities.shape[1]
    totals = np.log(np.maximum(probabilities, np.float32(1e-30))) + open_scores.reshape([-1, 1])
    totals = totals.reshape([prompts, beams * vocab])
    allowed = (probabilities > 0).reshape([prompts, -1])
    drawn = draw(softmax(totals) * allowed, noise)
    # They must lose, or equal beams would stay equal to the end.
    losing = np.tril(drawn[:, :, None] == drawn[:, None], -1).any(axis=2) | ~np.take_along_axis(allowed, drawn, axis=1)
    scores = np.take_along_axis(totals, drawn, axis=1) + losing * np.float32(lost)
    order = first_of_largest(scores, 2 * beams)
    places = np.take_along_axis(drawn, order, axis=1)
    return np.take_along_axis(scores, order, axis=1), places // vocab, places % vocab


def length_penalty(counts, exponents):
    """((length + 5) / 6) ** exponent for texts of so many pieces before their end; both [prompts], as the result."""
    return ((counts.astype("float32") + 5) / 6) ** exponents
