"""What the text of a bound search may be, as the graph that generation_config.feeds() asks for: a run of a passage's
characters, or one of some texts.

Pieces of a vocabulary match a passage character by character, for the pieces of a passage are seldom those of its
parts. All is in the sentencepiece model's own spelling, which writes full-width marks as half-width ones and leaves out
white space; where each of its characters stands in the passage is kept. Imports numpy, never paddle.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from glm.data.piece_models import NEWLINE_CHARACTER
from glm.words import segmenter

# What stands for a space in a vocabulary.
SPACE = "▁"
# The place behind the end piece, until places are numbered.
END = -1
# More pieces than any text has; see generation_config.
LONGEST = 2**30


@dataclass(frozen=True)
class Passage:
    """A text in a vocabulary's spelling.

    text: the text itself; spelled: how the vocabulary spells it; origin: int64 [len(spelled) + 1], where each of these
    characters comes from in the text, and the text's length. begins, ends: bool [len(spelled) + 1], at which of them a
    run may begin, and before which it may end.
    """

    text: str
    spelled: str
    origin: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    def find(self, run: str) -> tuple[int, int] | None:
        """Start and end in the text of the first run that spells what a vocabulary's decoder gives; None where there is
        none."""
        wanted = run.replace(" ", SPACE).replace("\n", NEWLINE_CHARACTER)
        place = self.spelled.find(wanted) if wanted else -1
        while place >= 0:
            end = place + len(wanted)
            if self.begins[place] and self.ends[end]:
                return int(self.origin[place]), self.end_of(end)
            place = self.spelled.find(wanted, place + 1)
        return None

    def end_of(self, place: int) -> int:
        """Where in the text a run ends that ends before a place of `spelled`: behind its last character, not at the
        next one's, for white space between them is left out."""
        last = int(self.origin[place - 1])
        following = self.origin[self.origin > last]
        end = int(following[0]) if len(following) else len(self.text)
        return last + len(self.text[last:end].rstrip()) if self.text[last:end].strip() else last + 1


def passage_of(text: str, tokenizer, boundaries: str = "words") -> Passage:
    """The Passage of a text. tokenizer: tokenization.Tokenizer. boundaries: one of words.BOUNDARIES."""
    spelled, origin = tokenizer.normalized(text)
    origin = np.array(origin, np.int64)
    # Half a character of the text is none: one may be spelled as several.
    whole = np.concatenate([[True], origin[1:] != origin[:-1]])
    solid = np.array([character not in (SPACE, NEWLINE_CHARACTER) for character in spelled] + [False])
    cuts = np.ones(len(spelled) + 1, bool)
    if boundaries == "words":
        cuts[:] = False
        cuts[word_ends(spelled)] = True
    before = np.concatenate([[False], solid[:-1]])
    return Passage(text, spelled, origin, cuts & whole & solid, cuts & whole & before)


def word_ends(spelled: str) -> list[int]:
    """Where jieba's words of a spelled text begin and end."""
    text = spelled.replace(SPACE, " ").replace(NEWLINE_CHARACTER, "\n")
    places = [0]
    for word in segmenter().cut(text):
        places.append(places[-1] + len(word))
    return places


def edges_of_runs(passage: Passage, tokenizer) -> np.ndarray:
    """Edges of all runs of a Passage, int64 [edges, 4]; see generation_config.feeds(). None where no run can be
    spelled."""
    return graph([(passage.spelled, passage.begins, passage.ends)], tokenizer)


def edges_of_texts(texts: Iterable[str], tokenizer) -> np.ndarray:
    """Edges of some texts, each of them whole: int64 [edges, 4]."""
    parts = []
    for text in texts:
        spelled, _ = tokenizer.normalized(text)
        begins = np.arange(len(spelled) + 1) == 0
        parts.append((spelled, begins, begins[::-1]))
    return graph(parts, tokenizer)


def graph(parts, tokenizer) -> np.ndarray:
    """Edges int64 [edges, 4] of texts that begin and end somewhere in some parts, each (a spelled text, begins, ends).

    Place 0 is where all texts begin. Where a vocabulary's texts begin with a space, they may do so by the piece of it
    alone: that leads to place 1. The others are those of the parts' characters. Places from which a text could not end
    have no edges.
    """
    edges, number = [], 2
    from_fresh, from_start = [], []
    for spelled, begins, ends in parts:
        takes = [None] * len(ends)
        for place in range(len(ends) - 1, -1, -1):
            ways = [
                (piece, end, takes[end]) for piece, end in matching(spelled, place, tokenizer) if takes[end] is not None
            ]
            edges += [(number + place, piece, number + end, rest) for piece, end, rest in ways]
            if begins[place]:
                from_fresh += [(piece, number + end, rest) for piece, end, rest in ways]
                joined = matching(spelled, place, tokenizer, before=SPACE) if tokenizer.begins_with_space else ()
                from_start += [(piece, number + end, takes[end]) for piece, end in joined if takes[end] is not None]
            # After this: a text that begins here is not to end here.
            rests = [rest + 1 for _, _, rest in ways]
            if ends[place]:
                edges.append((number + place, tokenizer.eop_id, END, 0))
                rests = [1]
            takes[place] = min(rests, default=None)
        number += len(ends)
    return numbered(edges, from_fresh, from_start, tokenizer)


def numbered(edges, from_fresh, from_start, tokenizer) -> np.ndarray:
    """The edges of graph() with those of places 0 and 1, and with places numbered without gaps: int64 [edges, 4]."""
    space = tokenizer.spellings.get(SPACE)
    if not tokenizer.begins_with_space:
        from_start, from_fresh = from_fresh, []
    elif space is not None and from_fresh:
        from_start = [*from_start, (space, 1, 1 + min(rest for _, _, rest in from_fresh))]
    else:
        from_fresh = []
    entries = [*((0, *way) for way in from_start), *((1, *way) for way in from_fresh)]
    edges = [*entries, *edges] if entries else []
    found = np.array(edges, np.int64).reshape([-1, 4])
    places = np.unique(np.append(found[:, 0], 0))
    leads = np.where(found[:, 2] == END, len(places), np.searchsorted(places, found[:, 2]))
    return np.stack([np.searchsorted(places, found[:, 0]), found[:, 1], leads, found[:, 3]], axis=1)


def matching(spelled: str, place: int, tokenizer, before: str = "") -> list[tuple[int, int]]:
    """(piece, place behind it) of the pieces that a spelled text has at a place, or that `before` and it have."""
    known, beginnings = tokenizer.spellings, tokenizer.beginnings
    found = []
    for end in range(place + 1, len(spelled) + 1):
        part = before + spelled[place:end]
        if part in known:
            found.append((known[part], end))
        if part not in beginnings:
            break
    return found


def collated(edges: list[np.ndarray]) -> np.ndarray:
    """Edges of several prompts, each [edges, 4], as one array [prompts, edges, 4]."""
    count = max([1, *map(len, edges)])
    result = np.full([len(edges), count, 4], [count, 0, count, LONGEST], np.int64)
    for row, of_prompt in enumerate(edges):
        result[row, : len(of_prompt)] = of_prompt
    return result
