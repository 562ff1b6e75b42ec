"""Texts at which an answer ends, and which are no part of it.

An answer is what the search finds, cut before the first place where one of them begins. Where a search tells its pieces
as they come, it need not go on from there.
"""

import numpy as np

from glm.data.tokenization import TextStream


def cut(text, stops):
    """A text up to the first of the places where one of the stops begins."""
    return text[: place_of(text, stops)]


def place_of(text, stops):
    """Where in a text the first stop begins, None if there is none."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


class StoppedStream:
    """A tokenization.TextStream that ends before the first stop, and keeps back what may become one."""

    def __init__(self, tokenizer, stops=()):
        self.stream, self.stops = TextStream(tokenizer), stops
        self.kept, self.over = "", False

    @property
    def count(self):
        """How many ids have come."""
        return self.stream.count

    def add(self, ids, final=False):
        """What to show of further ids; see TextStream.add()."""
        text = self.kept + self.stream.add(ids, final)
        if self.over:
            return ""
        place = place_of(text, self.stops)
        self.over = place is not None
        if not self.over:
            place = len(text) - (0 if final else beginning_at_end(text, self.stops))
        self.kept = "" if self.over else text[place:]
        return text[:place]


class Stops(StoppedStream):
    """The same, of which only the end is wanted."""

    def __call__(self, piece):
        """Take the id of a piece: whether a stop is there."""
        self.add([piece])
        return self.over


class StopsOfBatch:
    """The same of the texts of a batch; an on_token of numpy_search.Search."""

    def __init__(self, tokenizer, stops):
        self.tokenizer, self.stops, self.of_texts = tokenizer, stops, {}

    def __call__(self, numbers, pieces):
        """Take the newest pieces of texts, int64 [texts] as their numbers: bool [texts], where a stop is there."""
        found = []
        for number, piece in zip(numbers.tolist(), pieces.tolist(), strict=True):
            if number not in self.of_texts:
                self.of_texts[number] = Stops(self.tokenizer, self.stops)
            found.append(self.of_texts[number](piece))
        return np.array(found, bool)


def beginning_at_end(text, stops):
    """How many characters at the end of a text begin a stop, the most that do."""
    lengths = (length for stop in stops for length in range(len(stop) - 1, 0, -1) if text.endswith(stop[:length]))
    return max(lengths, default=0)
