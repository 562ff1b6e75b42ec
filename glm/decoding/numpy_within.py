"""Search bound to texts, in NumPy, a prompt at a time: which pieces may come next, and where a text has got to. What
within.py does in tensor operations, by the same definitions."""

import numpy as np

from glm.decoding.generation_config import BANNED, LONGEST, OUTSIDE


class Bound:
    """What the texts of a prompt may be, and where they have got to.

    edges: int64 [edges, 4], see generation_config.feeds(). texts: how many there are.
    """

    def __init__(self, edges, texts):
        edges = edges[edges[:, 3] < LONGEST]
        self.leaves, self.pieces, self.leads, self.takes = edges.T
        self.places = np.zeros([texts, int(edges[:, [0, 2]].max(initial=0)) + 1], bool)
        self.places[:, 0] = True

    def lower_others(self, logits, room, bans):
        """Lower logits [texts, vocab] of the pieces that may not come next. room: the pieces that may follow; bans:
        [texts, vocab], 0 or below BANNED / 2 where something else is against a piece, which counts where it leaves
        any."""
        live = self.places[:, self.leaves] & (self.takes <= room)
        for row, of_text, against in zip(logits, live, bans, strict=True):
            inside = np.unique(self.pieces[of_text])
            free = inside[against[inside] > BANNED / 2]
            allowed = free if len(free) else inside
            kept = row[allowed]
            row += np.float32(OUTSIDE)
            row[allowed] = kept

    def follow(self, parents, pieces):
        """The texts are now those of numbers `parents` [texts], each with a piece [texts] more."""
        before = self.places[parents]
        taken = before[:, self.leaves] & (self.pieces == pieces[:, None])
        self.places = np.zeros_like(before)
        texts, edges = np.nonzero(taken)
        self.places[texts, self.leads[edges]] = True
