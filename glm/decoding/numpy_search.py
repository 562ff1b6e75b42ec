"""Greedy search, sampling and beam search in NumPy: what search.py does, without paddle, and each prompt by limits of
its own.

A search holds any number of prompts at a time. add() reads more of them and gives each its first piece, step() gives
all one more, and a prompt leaves when its text ends. The structure of a GenerationConfig is equal for all prompts of a
search; what generation_config.feeds() makes of the rest may differ.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import numpy as np

from glm.decoding import numpy_scores as scores
from glm.decoding.generation_config import BANNED, IMPOSSIBLE, NOT_FINITE, OUTSIDE, PENALTIES
from glm.decoding.key_values import KeyValues, leaving
from glm.decoding.numpy_within import Bound

# Tokens of sources that are read at a time. More together do not stay in caches, and take more memory; one that is
# longer is read alone.
READ_TOGETHER = 512


class Model(Protocol):
    """The model as a search sees it.

    axes: of each array of keys or values, where its entries are: 2, as in [prompts, heads, entries, head_dim], or 3, as
    in [prompts, heads, head_dim, entries]. heads, head_dim: their shape. vocab_size.
    """

    def prefill(self, input_ids, source_mask, mask_index, start, **of_prompts):
        """Read sources, int64 [prompts, length] with a float32 mask of them, and behind each the piece `start` of its
        target, whose source position is mask_index [prompts]: logits [prompts, vocab] of what follows, and the list of
        their keys and values, length + 1 of them, which may change at the next call. of_prompts: adapters, int64
        [prompts], where the prompts have them."""

    def step(self, tokens, places, numbers, settled, visible, **of_prompts):
        """Read a piece of each text, tokens int64 [prompts, texts], the one of number numbers [prompts] in a target of
        source position places [prompts]: logits [prompts * texts, vocab], and the list of the pieces' keys and
        values. settled, visible: as KeyValues.seen() gives them."""


class Found(NamedTuple):
    """The texts of a prompt. key: what it was added under. ids: int64 [texts, new], best first, padded after their
    ends; all NOT_FINITE if logits were no finite numbers. values: float32 [texts], see GenerationConfig.output_scores;
    each: float32 [new], the log probabilities of the pieces, whose sum that is; None of beams, or where scores are not
    asked for.
    """

    key: object
    ids: np.ndarray
    values: np.ndarray
    each: np.ndarray | None = None


class Search(ABC):
    """Prompts that are decoded together.

    model: Model. config: GenerationConfig, of which the structure counts. special: SpecialIds. on_token(keys, pieces):
    called, without beams, with arrays [prompts] of what they were added under, and of their newest pieces; may give
    bool [prompts], whose texts are to end with them.
    """

    def __init__(self, model, config, special, on_token=None):
        self.model, self.config, self.special, self.on_token = model, config, special, on_token
        self.memory = KeyValues(model.axes, model.heads, model.head_dim, config.num_beams)
        self.banned = np.array(special.banned, "int64")
        # What n-grams may not repeat, in front of every text.
        self.start = np.array([special.sop])
        # Whether any logits since clear() were no finite numbers.
        self.spoiled = False
        # Of each prompt: its key; arrays by name; its source, where n-grams of it are not to be repeated; the Bound of
        # its texts, where they have one.
        self.keys, self.state, self.sources, self.bounds = [], {}, [], []

    @property
    def is_over(self):
        """Whether no prompt is left."""
        return not self.keys

    def add(self, feeds, keys):
        """Read prompts, and give each its first piece: the Found of those whose texts end with it.

        feeds: as generation_config.feeds() makes them; limits may be [prompts] instead of [1].
        """
        found, prompts = [], len(keys)
        feeds = {name: np.broadcast_to(x, [prompts]) if x.shape == (1,) else x for name, x in feeds.items()}
        self.memory.reserve(len(self.keys) + prompts, 0)
        for rows in read_together(feeds["source_mask"].sum(axis=1)):
            part = {name: array[rows] for name, array in feeds.items()}
            length = int(part["source_mask"].sum(axis=1).max())
            ids, mask = part.pop("input_ids")[:, :length], part.pop("source_mask")[:, :length]
            logits, entries = self.model.prefill(ids, mask, part["mask_index"], self.special.sop, **of_prompts(part))
            self.memory.admit(entries, np.concatenate([mask, np.ones([len(rows), 1], "float32")], axis=1))
            first = len(self.keys)
            self.keys += [keys[row] for row in rows]
            self.sources += [ids[i][mask[i] > 0] for i in range(len(rows))] if self.config.ban_source_ngrams else []
            self.bounds += [Bound(edges, self.config.num_beams) for edges in part.pop("edges", ())]
            self.state = joined(self.state, self.first_state(part), self.special.pad)
            found += self.advance(np.repeat(logits, self.config.num_beams, axis=0), first)
        return found

    def step(self):
        """Give each text one more piece: the Found of prompts that end with it."""
        state = self.state
        # Nobody may hold on to what the memory may have to move.
        of_texts = newest(state), state["mask_index"], state["count"]
        logits, entries = self.model.step(*of_texts, *self.memory.seen(), **of_prompts(state))
        self.memory.append(entries)
        return self.advance(logits, 0)

    def clear(self):
        """Let all prompts go, as an error may have left them; their memory is used again."""
        self.memory.clear(self.spoiled)
        self.spoiled = False
        self.keys, self.state, self.sources, self.bounds = [], {}, [], []

    def drop(self, keys):
        """Let prompts go whose texts nobody waits for any more."""
        self.keep(np.array([key in keys for key in self.keys], bool))

    def advance(self, logits, first):
        """Choose pieces for the prompts from number `first` on, by logits [prompts * texts, vocab], which are used up:
        the Found of those that end."""
        state = {name: array[first:] for name, array in self.state.items()}
        bad = scores.not_finite(logits).reshape([-1, self.config.num_beams]).any(axis=1)
        self.spoiled |= bool(bad.any())
        with np.errstate(invalid="ignore", over="ignore"):
            ended = self.choose(logits, state, first)
        state["count"] += 1
        ended = ended | bad | (state["count"] >= state["max_new_tokens"])
        if self.on_token is not None:
            over = self.on_token(np.array(self.keys[first:]), newest(state)[:, 0])
            ended = ended if over is None else ended | over
        found = []
        for row in np.flatnonzero(ended):
            own, count = {name: array[row] for name, array in state.items()}, state["count"][row]
            ids, values = self.result(own)
            ids = np.full_like(ids, NOT_FINITE) if bad[row] else ids
            each = own["each"][0, :count] if "each" in own else None
            found.append(Found(self.keys[first + row], ids[:, :count], values, each))
        self.keep(np.concatenate([np.zeros(first, bool), ended]))
        return found

    def keep(self, gone):
        """Go on without the prompts that are gone, bool [prompts]."""
        if gone.any():
            order = leaving(len(gone), gone)
            self.memory.keep(order)
            self.keys = [self.keys[row] for row in order]
            self.sources, self.bounds = ([of[row] for row in order] if of else [] for of in (self.sources, self.bounds))
            self.state = {name: array[order] for name, array in self.state.items()}

    def ban(self, logits, state, first):
        """Lower logits [prompts * texts, vocab] of what may not come next, or has been there."""
        if self.config.penalties:
            self.penalize(logits, state)
        bans = np.zeros_like(logits) if self.bounds else logits
        bans[:, self.banned] += BANNED
        early = np.repeat(state["count"] < state["min_new_tokens"], self.config.num_beams)
        bans[early, self.special.eop] += BANNED
        if self.config.no_repeat_ngram_size:
            scores.ban_repeated_ngrams(bans, self.histories(state, first), self.config.no_repeat_ngram_size)
        room = state["max_new_tokens"] - state["count"] - 1
        for row, bound in enumerate(self.bounds[first:]):
            texts = slice(row * self.config.num_beams, (row + 1) * self.config.num_beams)
            bound.lower_others(logits[texts], room[row], bans[texts])

    def penalize(self, logits, state):
        """Lower logits [prompts * texts, vocab] of the pieces that texts have already."""
        limits = np.stack([state[name] for name in PENALTIES], axis=1)
        prompts = np.flatnonzero((limits != list(PENALTIES.values())).any(axis=1))
        beams = self.config.num_beams
        for prompt in prompts.tolist():
            texts = state["texts"][prompt][:, : state["count"][prompt]]
            rows = slice(prompt * beams, (prompt + 1) * beams)
            scores.penalize(logits[rows], texts, np.repeat(limits[prompt : prompt + 1], beams, axis=0))

    def follow(self, parents, pieces, first):
        """Have the Bounds of the prompts from number `first` on follow pieces [prompts, texts] of texts that go on from
        those of numbers parents [prompts, texts]."""
        for bound, *chosen in zip(self.bounds[first:], parents, pieces, strict=False):
            bound.follow(*chosen)

    @property
    def lost(self):
        """The score of what may be looked at and must not win, such as equal texts."""
        return OUTSIDE if self.config.within_source else BANNED

    def exist(self, totals):
        """Whether there are texts of such log probabilities: where texts are bound, not beside them."""
        return totals > (OUTSIDE / 2 if self.config.within_source else IMPOSSIBLE)

    def histories(self, state, first):
        """What n-grams may not repeat, int64 [n] for each text."""
        nothing = np.zeros(0, "int64")
        for row, texts in enumerate(state["texts"]):
            before = self.sources[first + row] if self.sources else nothing
            for text in texts:
                yield np.concatenate([before, self.start, text[: state["count"][row]]])

    def first_state(self, feeds):
        """Arrays by name of prompts that have no piece yet; all have an entry a prompt."""
        shape = [len(feeds["mask_index"]), self.config.num_beams, int(feeds["max_new_tokens"].max())]
        return {**feeds, "count": np.zeros(shape[:1], "int64"), "texts": np.full(shape, self.special.pad)}

    @abstractmethod
    def choose(self, logits, state, first):
        """Write each text's next piece into a state, at its count; whether prompts end with it, bool [prompts]."""

    @abstractmethod
    def result(self, state):
        """(ids [texts, n] and scores [texts]) of a prompt's own state."""


class Rows(Search):
    """Greedy search and sampling: one text a prompt. With config.do_sample, a prompt of temperature 0 is not drawn
    for."""

    def first_state(self, feeds):
        """As Search.first_state(); each: [prompts, 1, pieces] float32, their log probabilities, where they are asked
        for."""
        state = super().first_state(feeds)
        return {**state, "each": np.zeros(state["texts"].shape, "float32")} if self.config.output_scores else state

    def choose(self, logits, state, first):
        """See Search.choose()."""
        rows, count = np.arange(len(logits)), state["count"]
        plain = scores.from_largest(logits) if self.config.output_scores else None
        self.ban(logits, state, first)
        drawn = state["temperature"] > 0 if self.config.do_sample else np.zeros(len(rows), bool)
        chosen = np.zeros(len(rows), "int64")
        if not drawn.all():
            chosen[~drawn] = logits[~drawn].argmax(axis=1) if drawn.any() else logits.argmax(axis=1)
        if drawn.any():
            limits = (state[name][drawn] for name in ("temperature", "top_k", "top_p"))
            noise = state["noise"][rows, :, count][drawn]
            chosen[drawn] = scores.draw(scores.kept_probabilities(logits[drawn], *limits), noise)[:, 0]
        if plain is not None:
            state["each"][rows, 0, count] = plain[rows, chosen] - scores.log_normalizer(plain)[:, 0]
        state["texts"][rows, 0, count] = chosen
        self.follow(np.zeros([len(rows), 1], "int64"), chosen[:, None], first)
        return chosen == self.special.eop

    def result(self, state):
        """See Search.result()."""
        of_pieces = state["each"][:, : state["count"]] if "each" in state else np.zeros([1, 0], "float32")
        return state["texts"], of_pieces.sum(axis=1)


class Beams(Search):
    """Beam search as paddlenlp defines it; see search.grow_beams()."""

    def first_state(self, feeds):
        """As Search.first_state(). open_scores: [prompts, beams] float32, log probabilities of the texts; at first only
        one of the equal texts may be extended. finished, finished_scores: the best texts that have ended, by what they
        compete by. over: bool [prompts], whether no open text can win any more."""
        state = super().first_state(feeds)
        shape = state["texts"].shape[:2]
        open_scores = np.full(shape, self.lost, "float32")
        open_scores[:, 0] = 0
        return {
            **state,
            "open_scores": open_scores,
            "finished": np.full_like(state["texts"], self.special.pad),
            "finished_scores": np.full(shape, IMPOSSIBLE, "float32"),
            "over": np.zeros(shape[:1], bool),
        }

    def choose(self, logits, state, first):
        """See Search.choose()."""
        beams, rows = self.config.num_beams, np.arange(len(state["count"]))[:, None]
        totals, parents, pieces = self.extensions(logits, state, first)
        texts = state["texts"][rows, parents]
        texts[rows, np.arange(2 * beams), state["count"][:, None]] = pieces
        ends = pieces == self.special.eop
        penalty = scores.length_penalty(state["count"], state["length_penalty"])[:, None]
        impossible = np.float32(IMPOSSIBLE)

        rewards = np.where(ends & self.exist(totals), totals / penalty, impossible)[:, :beams]
        state["finished_scores"][:], state["finished"][:] = best_texts(
            np.concatenate([state["finished_scores"], rewards], axis=1),
            np.concatenate([state["finished"], texts[:, :beams]], axis=1),
            beams,
        )
        worst = state["finished_scores"].min(axis=1)
        state["over"][:] = worst > impossible / 2
        if not self.config.early_stopping:
            state["over"] &= worst >= (totals / penalty)[:, 0]

        kept = scores.first_of_largest(np.where(ends, impossible, totals), beams)
        state["open_scores"][:] = np.where(ends, impossible, totals)[rows, kept]
        state["texts"][:] = texts[rows, kept]
        self.memory.follow(parents[rows, kept], first)
        self.follow(parents[rows, kept], pieces[rows, kept], first)
        if self.bounds:
            # There may be fewer texts than beams.
            state["over"] |= ~self.exist(state["open_scores"][:, 0])
        return state["over"]

    def extensions(self, logits, state, first):
        """What scores.best_extensions() or, with sampling, drawn_extensions() gives."""
        if self.config.penalties:
            # What is multiplied is to be of one sign, and the same whatever the logits' zero is.
            logits -= scores.log_normalizer(logits)
            normalizers = np.zeros([len(logits), 1], "float32")
        elif not self.config.do_sample:
            logits = scores.from_largest(logits)
            normalizers = scores.log_normalizer(logits)
        self.ban(logits, state, first)
        if not self.config.do_sample:
            return scores.best_extensions(normalizers, logits, state["open_scores"])
        limits = (np.repeat(state[name], self.config.num_beams) for name in ("temperature", "top_k", "top_p"))
        noise = state["noise"][np.arange(len(state["count"])), :, state["count"]]
        probabilities = scores.kept_probabilities(logits, *limits)
        return scores.drawn_extensions(probabilities, state["open_scores"], noise, self.lost)

    def result(self, state):
        """What has ended, and what is open where that may still win."""
        penalty = scores.length_penalty(state["count"], state["length_penalty"])
        still_open = state["open_scores"] / penalty + state["over"] * np.float32(IMPOSSIBLE)
        still_open = np.where(self.exist(state["open_scores"]), still_open, np.float32(IMPOSSIBLE))
        values, texts = best_texts(
            np.concatenate([state["finished_scores"], still_open])[None],
            np.concatenate([state["finished"], state["texts"]])[None],
            self.config.num_beams,
        )
        if self.bounds:
            # Of a text that does not exist, its end alone.
            texts[values < IMPOSSIBLE / 2] = [self.special.eop] + [self.special.pad] * (texts.shape[2] - 1)
        return texts[0], values[0]


def of_prompts(state):
    """What a model gets of prompts besides, by name."""
    return {"adapters": state["adapters"]} if "adapters" in state else {}


def newest(state):
    """The last piece of each text of a state, [prompts, texts]."""
    return np.take_along_axis(state["texts"], state["count"][:, None, None] - 1, axis=2)[:, :, 0]


def best_texts(values, texts, count):
    """The `count` best of values [prompts, n] with their texts [prompts, n, length], best first."""
    best = scores.first_of_largest(values, count)
    return np.take_along_axis(values, best, axis=1), np.take_along_axis(texts, best[:, :, None], axis=1)


def read_together(lengths):
    """Rows of sources that are read at a time: lists of indices into lengths, the longest first, of at most
    READ_TOGETHER tokens with their padding, or of one source."""
    parts = []
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if parts and (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= READ_TOGETHER:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def joined(old, new, pad):
    """Arrays by name, those of `new` behind those of `old`; where the last of three axes differs, it is padded."""
    if not old:
        return new
    return {name: np.concatenate(same_length(old[name], new[name], pad)) for name in new}


def same_length(a, b, pad):
    """Two arrays, if they have three axes padded to the same length of the last one."""
    if a.ndim < 3 or a.shape[2] == b.shape[2]:
        return a, b
    length = max(a.shape[2], b.shape[2])
    return tuple(np.pad(x, [(0, 0), (0, 0), (0, length - x.shape[2])], constant_values=pad) for x in (a, b))


def opened(model, config, special, on_token=None):
    """A Search without prompts; the arguments are those of Search."""
    return (Beams if config.num_beams > 1 else Rows)(model, config, special, on_token)


def finished(search, feeds):
    """What a search, of which no other prompts are wanted, makes of these, which are known by their numbers: [ids
    [prompts, texts, new] int64], with config.output_scores [ids, scores [prompts, texts] float32], as
    SearchLayer.forward gives them."""
    prompts, beams = len(feeds["input_ids"]), search.config.num_beams
    search.clear()
    found = search.add(feeds, list(range(prompts)))
    while not search.is_over:
        found += search.step()
    ids = np.full([prompts, beams, max(one.ids.shape[1] for one in found)], search.special.pad)
    values = np.zeros([prompts, beams], "float32")
    for key, texts, of_texts, _ in found:
        ids[key, :, : texts.shape[1]], values[key] = texts, of_texts
        if texts[0, 0] == NOT_FINITE:
            ids[key] = NOT_FINITE
    return [ids, values] if search.config.output_scores else [ids]
