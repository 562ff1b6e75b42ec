"""Attention over examples that lie one after another, in the ways that suit CPU and GPU. See layout.Layout.

Each takes the projections of a batch, mixed [tokens, 3 * hidden] (queries, keys, values, heads inside each), and gives
the context [tokens, hidden], or [targets, hidden] where only target tokens ask.
"""

import math

import paddle
import paddle.nn.functional as F

from glm.model.attention_by_example import MASKED_SCORE, ByExample
from glm.ops import device


def best_attention(layout, heads):
    """The way to attend that suits this device: a callable (mixed, drop, targets_only) → context."""
    return (OnGpu if device.takes_gpu_branches() else ByExample)(layout, heads)


class Padded:
    """All examples in one product, padded to the longest, under a dense mask."""

    def __init__(self, layout, heads):
        self.layout = layout
        self.heads = heads
        self.places = paddle.to_tensor(layout.places)
        self.shape = [len(layout.totals), max(layout.totals)]
        self.bias = bias_of_visible(paddle.to_tensor(layout.visible()).astype("float32"))

    def __call__(self, mixed, drop, targets_only=False):
        head_dim = mixed.shape[1] // (3 * self.heads)
        rows = paddle.zeros([self.shape[0] * self.shape[1], mixed.shape[1]], mixed.dtype)
        rows = paddle.scatter(rows, self.places, mixed).reshape([*self.shape, 3, self.heads, head_dim])
        query, key, value = rows.transpose([2, 0, 3, 1, 4]).unbind()
        context = attend(query / math.sqrt(head_dim), key, value, drop, self.bias.astype(mixed.dtype))
        context = paddle.gather(context.transpose([0, 2, 1, 3]).reshape([-1, self.heads * head_dim]), self.places)
        return only_targets(context, self.layout) if targets_only else context


class FlashMask:
    """Paddle 3's fused kernel for GPUs, in half precision. On CPU its definition is tested in its place; the kernel
    itself has never been run by us."""

    def __init__(self, layout, heads):
        self.layout = layout
        self.heads = heads
        self.bounds = paddle.to_tensor(layout.flashmask_bounds())

    def __call__(self, mixed, drop, targets_only=False):
        query, key, value = mixed.reshape([1, -1, 3, self.heads, mixed.shape[1] // (3 * self.heads)]).unbind(axis=2)
        context = F.flashmask_attention(
            query, key, value, self.bounds, dropout=drop.probability, causal=False, training=drop.probability > 0
        )
        context = context.reshape([-1, mixed.shape[1] // 3])
        return only_targets(context, self.layout) if targets_only else context


class OnGpu:
    """FlashMask where it can run, else Padded; which of them, the first projections say: with mixed precision they are
    of another dtype than the weights."""

    def __init__(self, layout, heads):
        self.layout = layout
        self.heads = heads
        self.chosen = None

    def __call__(self, mixed, drop, targets_only=False):
        if self.chosen is None:
            fused = device.is_half(mixed) and device.has_flashmask()
            self.chosen = (FlashMask if fused else Padded)(self.layout, self.heads)
        return self.chosen(mixed, drop, targets_only)


def attend(query, key, value, drop, bias=None):
    """Context [..., heads, length, head_dim] of query (scaled), key and value, each [..., heads, length, head_dim].

    bias: added to the scores. drop: applied to the probabilities.
    """
    scores = paddle.matmul(query, key, transpose_y=True)
    return paddle.matmul(drop(F.softmax(scores if bias is None else scores + bias)), value)


def bias_of_visible(visible):
    """What is added to scores: 0 where visible (float32) is 1, MASKED_SCORE where it is 0."""
    return (1.0 - visible) * MASKED_SCORE


def only_targets(tokens, layout):
    """The rows of [tokens, n] at target tokens."""
    return paddle.gather(tokens, paddle.to_tensor(layout.targets))
