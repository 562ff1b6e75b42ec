"""Attention on CPU, one example after another: nothing is padded, and masked is only what of an example's square its
source does not see."""

import math
from typing import NamedTuple

import numpy as np
import paddle
from paddle.autograd import PyLayer

from glm.ops.cpu_kernels import kernels
from glm.ops.numpy_kernels import as_array

# The most negative number that float16 holds: a score far below any real one in every dtype.
MASKED_SCORE = -65504.0


class ByExample:
    """A way to attend, see attention.py. Best on CPU, where an operator costs little and every score a lot."""

    def __init__(self, layout, heads):
        self.layout = layout
        self.heads = heads

    def __call__(self, mixed, drop, targets_only=False):
        wanted = paddle.is_grad_enabled() and not mixed.stop_gradient
        return Attention.apply(mixed, self.layout, self.heads, drop, targets_only, wanted)


class Attention(PyLayer):
    """Context [tokens, heads * head_dim], or [targets, …], of projections mixed [tokens, 3 * heads * head_dim].

    Everything is read and written where it lies. wanted: whether to keep what gradients need: the projections, and of
    each example its probabilities and which of them dropout kept.
    """

    @staticmethod
    def forward(ctx, mixed, layout, heads, drop, targets_only, wanted):
        mixed = mixed.contiguous()
        context = paddle.empty([len(layout.targets) if targets_only else mixed.shape[0], mixed.shape[1] // 3])
        examples, scale = list(places(layout, targets_only)), 1.0 / (1.0 - drop.probability)
        parts, contexts, kept_of = by_head(mixed, heads, 3), by_head(context, heads, 1)[0], []
        for example in examples:
            query, key, value = example.projections(parts)
            probabilities = example.probabilities(query, key)
            kept = drop.kept(probabilities.size) if drop.probability else None
            left = as_array(left_of(probabilities, kept, paddle.empty_like(probabilities)))
            kernels().product(left, value, contexts[:, example.answers], scale)
            kept_of.append((probabilities, kept))
        if wanted:
            ctx.mixed, ctx.heads, ctx.scale = mixed, heads, scale
            ctx.examples = list(zip(examples, kept_of, strict=True))
        return context

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        result = paddle.empty_like(ctx.mixed)
        parts, of_parts = by_head(ctx.mixed, ctx.heads, 3), by_head(result, ctx.heads, 3)
        of_contexts = by_head(gradient, ctx.heads, 1)[0]
        for example, (probabilities, kept) in ctx.examples:
            of_context = of_contexts[:, example.answers]
            of_parts[0, :, example.start : example.first] = 0
            example.gradients(parts, probabilities, kept, of_context, ctx.scale, of_parts)
        return result


def by_head(tensor, heads, parts):
    """The memory of [tokens, parts * heads * head_dim] as an array [parts, heads, tokens, head_dim]."""
    return as_array(tensor).reshape(tensor.shape[0], parts, heads, -1).transpose(1, 2, 0, 3)


def left_of(probabilities, kept, result):
    """[heads, queries, keys], with 0 in `result` where dropout did not keep them; kept: array of bool, or None for all,
    which are given as they are."""
    return probabilities if kept is None else kernels().times_kept(probabilities, kept, 1.0, result)


class Example(NamedTuple):
    """Where an example lies in a batch. start, end: its tokens; first: the first of them that asks; target: the number
    of its target tokens, which are its last; answers: the rows of the context that are its own (a slice)."""

    start: int
    first: int
    end: int
    target: int
    answers: slice

    def projections(self, parts):
        """Its query, key and value of [3, heads, tokens, head_dim], each [heads, length, head_dim]."""
        return (parts[part, :, begin : self.end] for part, begin in enumerate((self.first, self.start, self.start)))

    def probabilities(self, query, key):
        """[heads, queries, keys]. Of the target a source token sees nothing, and a target token what came up to it."""
        scores = paddle.empty([query.shape[0], query.shape[1], key.shape[1]])
        array = as_array(scores)
        kernels().product(query, key.swapaxes(1, 2), array, 1 / math.sqrt(query.shape[2]))
        to_target = array[:, :, -self.target :]
        to_target[:, : -self.target] = MASKED_SCORE
        to_target[:, -self.target :][:, np.triu(np.ones([self.target, self.target], bool), 1)] = MASKED_SCORE
        return kernels().softmax_(scores)

    def gradients(self, parts, probabilities, kept, of_context, scale, of_parts):
        """Write the gradients of its projections into `of_parts`; of_context: that of its context [heads, queries,
        head_dim], which was multiplied by `scale`."""
        product = kernels().product
        query, key, value = self.projections(parts)
        of_query, of_key, of_value = self.projections(of_parts)
        of_scores = paddle.empty_like(probabilities)
        # Their memory has first what is left of the probabilities, if dropout took any.
        left = as_array(left_of(probabilities, kept, of_scores))
        product(left.swapaxes(1, 2), of_context, of_value, scale)
        array, by = as_array(of_scores), 1 / math.sqrt(query.shape[2])
        product(of_context, value.swapaxes(1, 2), array, scale)
        kernels().softmax_gradient_(probabilities, left_of(of_scores, kept, of_scores))
        product(array, key, of_query, by)
        product(array.swapaxes(1, 2), query, of_key, by)


def places(layout, targets_only):
    """The Examples of a batch; targets_only: whether only target tokens ask."""
    start = written = 0
    for source, target in layout.lengths:
        end, first = start + source + target, start + (source if targets_only else 0)
        yield Example(start, first, end, target, slice(written, written + end - first))
        start, written = end, written + end - first
