"""Which channels of a model's hidden states are large, and factors that even them out before they become whole numbers.

A token has one scale for all of its numbers. Where some channels are many times larger than the others, as in most
trained transformers, the others would be left with a few levels. As in SmoothQuant (Xiao et al. 2023,
https://arxiv.org/abs/2211.10438), a channel is divided by a factor and the row of the matrix that it meets is
multiplied by it: the product stays what it was. Their paper looks for large channels in texts; here they are found by
random pieces, so that an export needs no data.
"""

import numpy as np
import paddle

from glm.model.lora import TARGETS, places
from glm.ops.strides import without_views

# Pieces of text that a model reads to be measured: rows, tokens of a source and of a target.
ROWS, SOURCE, TARGET = 4, 48, 16
SMALLEST = 1e-6


class Measured(paddle.nn.Layer):
    """A layer that remembers the largest number of each channel of what it is given, or of what it gives."""

    def __init__(self, plain, of_result=False):
        super().__init__()
        self.plain, self.of_result = plain, of_result
        self.largest = 0.0

    def forward(self, tokens):
        """The layer's result for tokens [..., channels]."""
        result = self.plain(tokens)
        seen = result if self.of_result else tokens
        self.largest = np.maximum(self.largest, np.abs(seen.numpy()).reshape([-1, seen.shape[-1]]).max(axis=0))
        return result


def largest_inputs(model):
    """{name of a weight: largest number of each channel that it is multiplied with, [n] float32}, of the linear layers
    and the head of a modeling.GLMForConditionalGeneration without LoRA, for random pieces."""
    stack, measured = model.glm.transformer, {}
    final = stack.final_layernorm
    for number, (part, name) in enumerate(places(model, TARGETS)):
        path = f"glm.transformer.layers.{number // len(TARGETS)}.{TARGETS[name]}.{name}.weight"
        measured[path] = Measured(getattr(part, name))
        setattr(part, name, measured[path])
    measured["glm.word_embeddings.weight"] = stack.final_layernorm = Measured(final, of_result=True)
    try:
        with paddle.no_grad(), without_views():
            model(**random_rows(model.config))
    finally:
        stack.final_layernorm = final
        for part, name in places(model, TARGETS):
            setattr(part, name, getattr(part, name).plain)
    return {name: layer.largest.astype("float32") for name, layer in measured.items()}


def random_rows(config):
    """What forward() of a model takes, of random pieces: sources with targets after them."""
    target = min(TARGET, config.max_sequence_length // 4)
    source = min(SOURCE, config.max_sequence_length - target)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, [ROWS, source + target])
    places = np.concatenate([np.arange(source), np.full(target, source - 1)])
    inside = np.concatenate([np.zeros(source, "int64"), 1 + np.arange(target)])
    arrays = {
        "input_ids": ids,
        "position_ids": np.stack([places, inside])[None].repeat(ROWS, axis=0),
        "attention_mask": np.full([ROWS], source),
    }
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def factors(largest, matrix):
    """What to divide channels by, [n] float32, around 1: half of the way from where all channels are alike to where all
    rows of the matrix [n, m] are; largest: of each channel, [n]."""
    rows = np.abs(matrix).max(axis=1)
    result = np.sqrt(np.maximum(largest, SMALLEST) / np.maximum(rows, SMALLEST))
    return (result / np.exp(np.log(result).mean())).astype("float32")
