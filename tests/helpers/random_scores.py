"""Both searches on random scores instead of a model, each as a function: ids and values of prompts."""

import dataclasses

import numpy as np
import paddle

from glm.decoding import numpy_search
from glm.decoding import scores as paddle_scores
from glm.decoding.generation_config import SpecialIds, feeds
from glm.decoding.search import Model, Rules, search

VOCAB, EOP, SOP, PAD = 32, 3, 29, 30
BANNED = (0, 29, 30, 31)
# Made likely, so that texts end in time and n-grams would come again.
FAVOURITES = [EOP, 5, 6, 7]
# What the "model" remembers of every prompt's source.
SOURCE = [25, 26, 27]
SPECIAL = SpecialIds(SOP, EOP, PAD, BANNED)


class Scores:
    """Random logits that depend on the seed, the prompt and the whole text so far: a "model" without a network.

    ends: for each prompt the step at which <|endofpiece|> is all but certain, having been all but impossible.
    first: a piece that all texts begin with.
    """

    def __init__(self, seed, scale=2.0, ends=(), forbidden_bonus=0.0, first=None):
        self.seed, self.scale, self.ends, self.forbidden_bonus, self.first = seed, scale, ends, forbidden_bonus, first
        self.steps = self.rows_read = 0

    def after(self, prompt, text):
        logits = np.random.default_rng([self.seed, prompt, *text]).standard_normal(VOCAB) * self.scale
        logits[FAVOURITES] += 3.0
        logits[list(BANNED)] += self.forbidden_bonus
        if self.ends:
            logits[EOP] += 100.0 if len(text) >= self.ends[prompt] else -100.0
        if self.first is not None and len(text) == 0:
            logits[self.first] += 100.0
        return logits.astype("float32").astype("float64")

    def step(self, tokens, number, settled, recent, fixed, lineage):
        """The step of a search.Model. Its entries are the tokens it was given: they show wrong lineages."""
        recent = [paddle.concat([recent[0], tokens.unsqueeze([1, 3])], axis=2)]
        entries = paddle.concat([settled[0], recent[0]], axis=2)[:, 0, :, 0].numpy()
        numbers = np.full(len(entries), int(number))
        return paddle.to_tensor(self.logits(fixed[0].numpy(), numbers, entries, lineage.numpy())), recent

    def logits(self, prompts, numbers, entries, lineage):
        """Logits [prompts * texts, vocab] float32 by the entries [prompts, n] that texts see."""
        self.steps += 1
        self.rows_read += len(prompts)
        logits = []
        for prompt, number, pieces, owned in zip(prompts, numbers, entries, lineage, strict=True):
            assert set(np.unique(owned)) <= {0.0, 1.0}
            for own in owned:
                source, text = np.split(pieces[own > 0], [len(SOURCE) - prompt % 2])
                assert source.tolist() == SOURCE[: len(source)]
                assert len(text) == number + 1
                assert text[0] == SOP
                logits.append(self.after(prompt, text[1:]))
        return np.array(logits, "float32")


class NumpyModel:
    """Scores as a numpy_search.Model. Prompts are known by their mask_index."""

    axes, heads, head_dim, vocab_size = (2,), 1, 1, VOCAB

    def __init__(self, scores):
        self.scores = scores

    def prefill(self, input_ids, source_mask, mask_index, start):
        entries = np.concatenate([input_ids, np.full([len(input_ids), 1], start)], axis=1)
        seen = np.concatenate([source_mask, np.ones([len(input_ids), 1])], axis=1)[:, None]
        logits = self.scores.logits(mask_index, np.zeros_like(mask_index), entries, seen)
        return logits, [entries[:, None, :, None].astype("float32")]

    def step(self, tokens, places, numbers, settled, visible):
        new = tokens[:, None, :, None].astype("float32")
        entries = np.concatenate([settled[0], new], axis=2)[:, 0, :, 0].astype("int64")
        return self.scores.logits(places, numbers, entries, visible), [new]


def prompts_of(numbers, edges=None):
    """Arrays of prompts, known by their mask_index; those of odd numbers are padded. edges: of each, or None."""
    mask = np.ones([len(numbers), len(SOURCE)], "float32")
    mask[np.array(numbers) % 2 == 1, -1] = 0.0
    ids = np.tile(np.array(SOURCE), [len(numbers), 1])
    bound = {} if edges is None else {"edges": edges}
    return {"input_ids": ids, "source_mask": mask, "mask_index": np.array(numbers, "int64"), **bound}


def decode_by_numpy(scores, config, prompts=(0,), before=(), edges=None):
    """As decode_by_paddle()."""
    inputs = feeds(prompts_of(prompts, edges), config, prompts)
    search = numpy_search.opened(NumpyModel(scores), dataclasses.replace(config, output_scores=True), SPECIAL)
    search.start = np.array([*before, SOP])
    return numpy_search.finished(search, inputs)


def decode_by_paddle(scores, config, prompts=(0,), before=(), edges=None):
    """Ids [prompts, texts, new] and scores [prompts, texts] (numpy). Prompts with odd numbers have a padded source."""
    inputs = feeds(prompts_of(prompts, edges), config, prompts)
    inputs = {name: paddle.to_tensor(value) for name, value in inputs.items()}
    history = paddle.to_tensor(np.tile(np.array([*before, SOP], "int64"), [len(prompts), 1]))
    source = paddle.to_tensor(np.tile(np.array(SOURCE, "int64")[None, None, :, None], [len(prompts), 1, 1, 1]))
    visible = np.ones([len(prompts), len(SOURCE)], "float32")
    visible[[prompt % 2 == 1 for prompt in prompts], -1] = 0.0
    fixed = [inputs["mask_index"], *(inputs[name] for name in ("edges", "noise") if name in inputs)]
    bias = [paddle_scores.bias_of(pieces, VOCAB) for pieces in (BANNED, [EOP])]
    model = Model(scores.step, lambda count: [paddle.full([count, 1, 0, 1], 0, dtype="int64")])
    rules = Rules(config, SPECIAL, inputs, *bias)
    found = search(model, [source], fixed, paddle.to_tensor(visible), history, rules)
    return [tensor.numpy() for tensor in found]


def trimmed(rows):
    """Rows as lists that end with their first end piece; nothing but padding may follow it."""
    texts = []
    for row in rows.tolist():
        length = row.index(EOP) + 1 if EOP in row else len(row)
        assert set(row[length:]) <= {PAD}
        texts.append(row[:length])
    return texts


DECODE_BY = {"paddle": decode_by_paddle, "numpy": decode_by_numpy}
