"""How a GLM's weights are divided among tensor-parallel ranks. NumPy only.

Layers that widen (query_key_value, dense_h_to_4h) are divided by columns, layers that narrow again (attention.dense,
dense_4h_to_h) by rows, the word embeddings by rows of the vocabulary; all else every rank has whole (Shoeybi et al.
2019, https://arxiv.org/abs/1909.08053). The columns of query_key_value are three times the heads: a rank gets its heads
of all three.

A rank's part has two layouts. In memory queries, keys and values come one after another, as in the whole matrix. In a
shard file, as paddlenlp reads and writes it, they come head by head: query, key and value of the first head, and so on.
"""

import re

import numpy as np

from glm.errors import UserError

COLUMNS, ROWS = -1, 0
FUSED = re.compile(r"\.query_key_value\.(weight|bias|lora_B)$")
BY_COLUMNS = re.compile(r"\.(query_key_value|dense_h_to_4h)\.(weight|bias|lora_B)$")
BY_ROWS = re.compile(r"(word_embeddings\.weight|\.(attention\.dense|dense_4h_to_h)\.(weight|lora_A))$")


class ShardError(UserError):
    """A model cannot be divided or put together so; the message says why, in one line."""


def axis_of(name):
    """The axis along which the weight of this name is divided, None if it is not."""
    if BY_COLUMNS.search(name):
        return COLUMNS
    return ROWS if BY_ROWS.search(name) else None


def check_degree(degree, heads, hidden_size, vocab_size):
    """Raise ShardError unless a model of these sizes can be divided among so many ranks."""
    if degree < 1:
        raise ShardError(f"tensor_parallel_degree is {degree}; it must be at least 1")
    for what, size in (("attention heads", heads), ("rows of embeddings", vocab_size), ("hidden sizes", hidden_size)):
        if size % degree:
            raise ShardError(f"tensor_parallel_degree {degree} does not divide the model's {size} {what}")


def local_shape(name, shape, degree):
    """Shape of a rank's part of the weight of this name and shape."""
    axis, shape = axis_of(name), list(shape)
    if axis is not None:
        shape[axis] //= degree
    return tuple(shape)


def whole_shape(name, shape, degree):
    """Shape of the weight of which a rank has a part of this shape."""
    axis, shape = axis_of(name), list(shape)
    if axis is not None:
        shape[axis] *= degree
    return tuple(shape)


def local_part(name, array, rank, degree):
    """A rank's part of a whole weight, in the layout of memory."""
    axis = axis_of(name)
    if axis is None or degree == 1:
        return array
    if FUSED.search(name):
        three = array.reshape([*array.shape[:-1], 3, array.shape[-1] // 3])
        return np.split(three, degree, axis=-1)[rank].reshape([*array.shape[:-1], -1])
    return np.split(array, degree, axis=axis)[rank]


def whole_of_parts(name, parts):
    """The whole weight of all ranks' parts in the layout of memory."""
    axis = axis_of(name)
    if axis is None or len(parts) == 1:
        return parts[0]
    if FUSED.search(name):
        lead = parts[0].shape[:-1]
        three = [part.reshape([*lead, 3, part.shape[-1] // 3]) for part in parts]
        return np.concatenate(three, axis=-1).reshape([*lead, -1])
    return np.concatenate(parts, axis=axis)


def to_file(name, part, heads):
    """A part in the layout of shard files, of one in the layout of memory; heads: attention heads of a rank."""
    return swapped(part, 3, heads) if FUSED.search(name) else part


def from_file(name, part, heads):
    """A part in the layout of memory, of one in the layout of shard files; heads: attention heads of a rank."""
    return swapped(part, heads, 3) if FUSED.search(name) else part


def swapped(array, outer, inner):
    """The last axis read as [outer, inner, n], with outer and inner exchanged."""
    lead = array.shape[:-1]
    return array.reshape([*lead, outer, inner, -1]).swapaxes(-3, -2).reshape(array.shape)
