"""From logits to chosen pieces: bans, distributions to draw from, the best extensions of beams.

All in tensor operations without a loop over rows, eagerly and in exported programs alike.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

from glm.decoding.generation_config import BANNED
from glm.ops.control_flow import branch

# As many of the likeliest pieces are looked at before a whole vocabulary is sorted, which takes 30 times as long.
CANDIDATES = 256


def bias_of(pieces, vocab_size):
    """[vocab] float32, BANNED at some pieces (ids) and 0 elsewhere."""
    bias = np.zeros(vocab_size, dtype="float32")
    bias[list(pieces)] = BANNED
    return paddle.to_tensor(bias)


def ban_repeated_ngrams(logits, history, size):
    """Logits [rows, vocab], lowered for pieces that would complete an n-gram already in the row's history.

    history: [rows, at least 1] int64. size: of the n-grams; 0 bans none. Every window of size - 1 pieces is compared
    with the newest size - 1; where they agree, the piece after the window is banned. Imaginary pieces in front keep
    every slice non-empty.
    """
    if not size:
        return logits
    rows, vocab = paddle.shape(history)[0], logits.shape[-1]
    padded = paddle.concat([paddle.full([rows, size - 1], -1, dtype="int64"), history], axis=1) if size > 1 else history
    length = paddle.shape(padded)[1]
    following = padded[:, size - 1 :]
    repeats = following >= 0
    for offset in range(size - 1):
        newest = paddle.slice(padded, [1], [length - (size - 1) + offset], [length - (size - 1) + offset + 1])
        window = paddle.slice(padded, [1], [offset], [length - (size - 1) + offset])
        repeats = repeats & (window == newest)
    first_of_row = paddle.arange(rows, dtype="int64").unsqueeze(1) * vocab
    places = (first_of_row + paddle.clip(following, min=0)).flatten().unsqueeze(1)
    bans = repeats.astype("float32").flatten() * BANNED
    return paddle.scatter_nd_add(logits.flatten(), places, bans).reshape([-1, vocab])


def penalized(logits, history, number, repetition, presence, frequency):
    """Logits [rows, vocab], lowered for pieces that are among the last `number` [1] int64 of the row's history.

    history: [rows, n] int64. repetition, presence, frequency: [1] float32; see GenerationConfig.
    """
    rows, vocab = paddle.shape(history)[0], logits.shape[-1]
    length = paddle.shape(history)[1].astype("int64")
    own = paddle.arange(length, dtype="int64") >= length - number
    own = own.astype("float32").unsqueeze(0) + paddle.zeros_like(history).astype("float32")
    places = paddle.arange(rows, dtype="int64").unsqueeze(1) * vocab + history
    counts = paddle.scatter_nd_add(paddle.zeros_like(logits).flatten(), places.flatten().unsqueeze(1), own.flatten())
    counts = counts.reshape([-1, vocab])
    repeated = paddle.where(logits > 0, logits / repetition, logits * repetition) - (presence + frequency * counts)
    return paddle.where(counts > 0, repeated, logits)


def kept_probabilities(logits, temperature, top_k, top_p):
    """Probabilities [rows, vocab] at a temperature, 0 but for the top_k likeliest pieces and, of all, the smallest set
    that reaches top_p (nucleus sampling, Holtzman et al. 2020); not renormalised. Of pieces that are equally likely the
    first ones are kept, as greedy search takes the first.

    temperature, top_p: [1] float32; top_k: [1] int64, 0 for all.
    """
    probabilities = F.softmax(logits / temperature)
    # Paddle's softmax gives what is banned 1e-28, which counts where nothing else is left.
    lowest = logits.max(axis=-1, keepdim=True) + BANNED / 2
    probabilities = probabilities * (logits > lowest).astype("float32")
    vocab = probabilities.shape[-1]
    few = min(CANDIDATES, vocab)
    # By logits: different ones may have the same probability.
    likeliest = descending(logits, probabilities, few)
    by_count = (top_k > 0) & (top_k <= few)
    by_mass = paddle.min(likeliest[1].sum(axis=-1), axis=[0], keepdim=True) >= top_p
    unfiltered = (top_k == 0) & (top_p >= 1.0)
    limits = branch(
        by_count | by_mass | unfiltered,
        lambda: limits_of_kept(*likeliest, top_k, top_p),
        lambda: limits_of_kept(*descending(logits, probabilities, vocab), top_k, top_p),
    )
    lowest, count = limits[:, :1], limits[:, 1:]
    kept = paddle.maximum((logits >= lowest).astype("float32"), unfiltered.astype("float32"))
    surplus = paddle.max(kept.sum(axis=-1, keepdim=True) - count, axis=[0]) > 0
    kept = branch(
        unfiltered | paddle.logical_not(surplus), lambda: kept + 0.0, lambda: first_kept(logits, lowest, count)
    )
    return probabilities * kept


def descending(logits, probabilities, count):
    """The largest logits [rows, count], and their probabilities."""
    largest, pieces = paddle.topk(logits, count)
    return largest, paddle.take_along_axis(probabilities, pieces, axis=1)


def limits_of_kept(largest, likeliest, top_k, top_p):
    """The lowest logit that top_k and top_p keep, and how many they keep, [rows, 2]; largest, likeliest: logits and
    probabilities as descending() gives them."""
    before = paddle.cumsum(likeliest, axis=-1) - likeliest
    rank = paddle.arange(likeliest.shape[-1], dtype="int64").unsqueeze(0)
    keep = (rank < top_k) | (top_k == 0)
    keep = keep & ((before < top_p) | (rank == 0))
    lowest = paddle.where(keep, largest, paddle.full_like(largest, 3e38)).min(axis=-1, keepdim=True)
    return paddle.concat([lowest, keep.astype("float32").sum(axis=-1, keepdim=True)], axis=1)


def first_kept(logits, lowest, count):
    """1 for `count` pieces [rows, 1], 0 for the others: those above the logit `lowest` [rows, 1], of those that have it
    the first ones."""
    above, level = (compared.astype("float32") for compared in (logits > lowest, logits == lowest))
    room = count - above.sum(axis=-1, keepdim=True)
    return above + level * (paddle.cumsum(level, axis=-1) <= room).astype("float32")


def noise_of_step(noise, number):
    """The uniform numbers [rows, draws] of a step, from noise [rows, draws, steps]."""
    return paddle.gather(noise, number, axis=2).squeeze(2)


def draw(weights, noise):
    """Draw places by the inverse of the cumulative distribution, without replacement.

    weights: [rows, n]. noise: [rows, draws], uniform in [0, 1). Returns places [rows, draws] int64; a row with fewer
    places of positive weight than draws gives place 0 for the rest.
    """
    places = paddle.arange(weights.shape[-1], dtype="int64").unsqueeze(0)
    drawn = []
    for column in range(noise.shape[1]):
        cumulative = paddle.cumsum(weights, axis=-1)
        threshold = noise[:, column : column + 1] * cumulative[:, -1:]
        place = (cumulative <= threshold).astype("int64").sum(axis=-1, keepdim=True)
        # Rounding may carry the sum past the last place that has weight.
        last = ((weights > 0).astype("int64") * places).max(axis=-1, keepdim=True)
        drawn.append(paddle.minimum(place, last))
        weights = weights * (places != drawn[-1]).astype("float32")
    return paddle.concat(drawn, axis=-1)


def not_finite(logits):
    """[rows] int64: 1 where a row of logits [rows, vocab] has NaN or infinity in it."""
    # 0 times a sum is 0, or NaN, which is not itself.
    nothing = logits.sum(axis=-1) * 0.0
    return (nothing != nothing).astype("int64")


def log_probability(logits, pieces):
    """[rows] float32: log probability of a piece of each row. logits: [rows, vocab]; pieces: [rows] int64."""
    chosen = paddle.take_along_axis(logits, pieces.unsqueeze(1), axis=1)
    return (chosen - log_normalizer(logits))[:, 0]


def best_extensions(normalizers, biased, open_scores):
    """The 2 * beams best extensions of the open texts of each prompt, best first.

    normalizers: [prompts * beams, 1], log_normalizer() of what the model gave; biased: [prompts * beams, vocab],
    lowered for what must not be chosen. open_scores: [prompts, beams], log probabilities.
    Returns scores, parents (which beam) and pieces, each [prompts, 2 * beams].
    """
    beams = open_scores.shape[1]
    # The best 2 * beams of a prompt are among the best 2 * beams of each of its rows.
    count = min(2 * beams, biased.shape[-1])
    best, pieces = paddle.topk(biased, count)
    totals = best - normalizers + open_scores.reshape([-1, 1])
    scores, places = paddle.topk(totals.reshape([-1, beams * count]), 2 * beams)
    pieces = paddle.take_along_axis(pieces.reshape([-1, beams * count]), places, axis=1)
    return scores, places // count, pieces


def drawn_extensions(probabilities, open_scores, noise, lost=BANNED):
    """As many extensions as best_extensions() gives, drawn by probability and best first.

    probabilities: [prompts * beams, vocab], 0 for what must not be chosen. noise: [prompts, 2 * beams]. lost: added to
    the scores of extensions that must not win: with fewer candidates than draws, some come again, and some are none.
    """
    beams, vocab = open_scores.shape[1], probabilities.shape[-1]
    totals = paddle.log(paddle.clip(probabilities, min=1e-30)) + open_scores.reshape([-1, 1])
    totals = totals.reshape([-1, beams * vocab])
    allowed = (probabilities > 0).astype("float32").reshape([-1, beams * vocab])
    drawn = draw(F.softmax(totals) * allowed, noise)
    # They must lose, or equal beams would stay equal to the end.
    same = (drawn.unsqueeze(2) == drawn.unsqueeze(1)).astype("float32")
    losing = paddle.tril(same, -1).sum(axis=2) + 1 - paddle.take_along_axis(allowed, drawn, axis=1)
    losing = paddle.clip(losing, max=1.0)
    scores, order = paddle.topk(paddle.take_along_axis(totals, drawn, axis=1) + losing * lost, 2 * beams)
    places = paddle.take_along_axis(drawn, order, axis=1)
    return scores, places // vocab, places % vocab


def log_normalizer(logits):
    """log of the sum of exp over the last axis, [rows, 1].

    From the largest probability p = exp(z) / sum and its logit z: F.softmax is one fast pass on CPU, while
    paddle.logsumexp takes seven times as long, and F.log_softmax seconds.
    """
    largest = F.softmax(logits).max(axis=-1, keepdim=True)
    return logits.max(axis=-1, keepdim=True) - paddle.log(largest)


def length_penalty(number, exponent):
    """((length + 5) / 6) ** exponent for texts of `number` pieces before their end, [1]."""
    return ((number.astype("float32") + 5.0) / 6.0) ** exponent
