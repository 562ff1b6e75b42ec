"""Greedy search, sampling and beam search for one prompt, in NumPy and Python lists, straight from their definitions.

A text is a tuple of pieces. `logits_after(text)` gives float64 logits [vocab] of what follows it. A search ends a text
with its end piece. `before` are pieces in front of the text whose n-grams count as having occurred.
"""

import numpy as np


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def ngrams(pieces, size):
    """All n-grams of a sequence, as tuples."""
    return [tuple(pieces[i : i + size]) for i in range(len(pieces) - size + 1)]


class Rules:
    """What a search may not produce."""

    def __init__(self, eop, banned=(), min_new_tokens=0, ngram_size=0, before=()):
        self.eop, self.banned, self.min_new_tokens = eop, set(banned), min_new_tokens
        self.ngram_size, self.before = ngram_size, tuple(before)

    def allows(self, text, piece):
        """Whether the text may go on with the piece."""
        if piece in self.banned or (piece == self.eop and len(text) < self.min_new_tokens):
            return False
        if not self.ngram_size:
            return True
        past = ngrams(self.before + text, self.ngram_size)
        return (self.before + text + (piece,))[-self.ngram_size :] not in past

    def allowed(self, text, vocab):
        """Boolean array [vocab]."""
        return np.array([self.allows(text, piece) for piece in range(vocab)])


def penalized(scores, text, repetition=1.0, presence=0.0, frequency=0.0):
    """Logits, or log probabilities, with what a text's own pieces lose."""
    scores = list(scores)
    for piece in set(text):
        scores[piece] = scores[piece] * repetition if scores[piece] < 0 else scores[piece] / repetition
        scores[piece] -= presence + frequency * text.count(piece)
    return np.array(scores)


def search(logits_after, choose, rules, max_new_tokens):
    """The text whose pieces are choose(logits, number), -inf where the rules forbid a piece."""
    text = ()
    while len(text) < max_new_tokens and not (text and text[-1] == rules.eop):
        logits = logits_after(text)
        logits = np.where(rules.allowed(text, len(logits)), logits, -np.inf)
        text += (int(choose(logits, len(text))),)
    return list(text)


def greedy(logits, number):
    return np.argmax(logits)


def kept_probabilities(logits, temperature, top_k, top_p):
    """Probabilities [vocab], 0 outside of the top_k pieces and of the smallest set of pieces that reaches top_p; of the
    equally likely, the first are taken."""
    probabilities = np.exp(log_softmax(logits / temperature))
    kept, mass = np.zeros_like(probabilities), 0.0
    for rank, piece in enumerate(np.argsort(-logits, kind="stable")):
        if (top_k and rank >= top_k) or (rank and mass >= top_p):
            break
        kept[piece] = probabilities[piece]
        mass += probabilities[piece]
    return kept


def sampler(noise, temperature, top_k, top_p):
    """A choose() for search() that inverts the cumulative distribution over pieces in order of id, at noise[number]."""

    def choose(logits, number):
        kept = kept_probabilities(logits, temperature, top_k, top_p)
        mass = 0.0
        threshold = noise[number] * kept.sum()
        for piece in range(len(kept)):
            mass += kept[piece]
            if mass > threshold:
                return piece
        raise AssertionError("noise is below 1, so that some piece exceeds the threshold")

    return choose


def beam_search(logits_after, rules, num_beams, max_new_tokens, length_penalty, early_stopping, change=None):
    """([(score, text)] of the num_beams best texts, best first; number of steps taken). change(log probabilities,
    text): what takes their place."""
    still_open, finished = [(0.0, ())], []
    for number in range(max_new_tokens):
        norm = ((number + 5) / 6) ** length_penalty
        extensions = []
        for total, text in still_open:
            scores = log_softmax(logits_after(text))
            scores = total + (scores if change is None else change(scores, text))
            allowed = rules.allowed(text, len(scores))
            extensions += [(scores[piece], (*text, piece)) for piece in range(len(scores)) if allowed[piece]]
        extensions = best(extensions, 2 * num_beams)
        if not extensions:
            return finished, number
        ended = [(total / norm, text) for total, text in extensions[:num_beams] if text[-1] == rules.eop]
        finished = best(finished + ended, num_beams)
        best_open = extensions[0][0] / norm
        if len(finished) == num_beams and (early_stopping or finished[-1][0] >= best_open):
            return finished, number + 1
        still_open = [extension for extension in extensions if extension[1][-1] != rules.eop][:num_beams]
    norm = ((max_new_tokens + 5) / 6) ** length_penalty
    return best(finished + [(total / norm, text) for total, text in still_open], num_beams), max_new_tokens


def best(scored, count):
    return sorted(scored, key=lambda pair: -pair[0])[:count]
