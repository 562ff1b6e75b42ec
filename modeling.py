"""GLM over paddlenlp's layers and weight names, with a forward pass of our own.

The parameters, their names and the configuration are paddlenlp's, so a stock checkpoint loads and saves unchanged. What
differs from the stock forward pass: attention is described by the source's length instead of a stored square; the loss
reads the head at target positions only; decoding keeps keys and values instead of hidden states.

GLM (Du et al. 2022, https://arxiv.org/abs/2103.10360) reads a source bidirectionally and continues it causally. Every
token has two positions: its place in the source (target tokens carry the place of the mask token they fill in), and its
place inside the target (0 in the source).
"""

import math
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle.distributed.fleet.utils import recompute
from paddlenlp.transformers import GLMForConditionalGeneration as StockGLM

# The most negative number that float16 holds: a score far below any real one in every dtype.
MASKED_SCORE = -65504.0


class Prefix(NamedTuple):
    """What decoding keeps of a batch of sources: it is computed once and never changes.

    keys_values: for each layer a pair of tensors [batch, heads, source, head_dim].
    score_bias: [batch, 1, 1, source], 0 at real tokens and MASKED_SCORE at padding.
    mask_index: [batch] int64, the position that every target token carries.
    """

    keys_values: list
    score_bias: paddle.Tensor
    mask_index: paddle.Tensor


class GLMForConditionalGeneration(StockGLM):
    """GLM with a language-modelling head tied to the word embeddings."""

    def forward(self, input_ids, position_ids=None, attention_mask=None, labels=None, label_smoothing=0.0):
        """Return logits [batch, length, vocab], or the mean loss over target tokens when labels are given.

        input_ids: [batch, length] int64.
        position_ids: [batch, 2, length] int64, source positions and block positions; default 0…length-1 and zeros.
        attention_mask: [batch] int64, the number of leading tokens that everyone sees, the rest being causal; or
            [batch or 1, 1, length, length], 1 where the query (third axis) sees the key (last axis). Default: causal.
        labels: [batch, length] int64, -100 where there is nothing to predict.
        label_smoothing: weight of the uniform distribution in the target (Szegedy et al. 2016).
        """
        hidden = self.embed(input_ids, position_ids)
        hidden = self.glm.transformer.embedding_dropout(hidden)
        bias = attention_bias(attention_mask, input_ids.shape[1])
        for layer in self.glm.transformer.layers:
            if self.glm.transformer.enable_recompute and not hidden.stop_gradient:
                hidden = recompute(self.block, layer, hidden, bias)
            else:
                hidden = self.block(layer, hidden, bias)
        hidden = self.glm.transformer.final_layernorm(hidden)
        if labels is None:
            return self.head(hidden)
        flat_labels = labels.flatten()
        targets = paddle.nonzero(flat_labels >= 0).flatten()
        hidden = paddle.gather(hidden.reshape([-1, hidden.shape[-1]]), targets)
        return smoothed_cross_entropy(self.head(hidden), paddle.gather(flat_labels, targets), label_smoothing)

    def embed(self, input_ids, position_ids=None):
        """Sum of word, position and block position embeddings, [batch, length, hidden]."""
        stack = self.glm.transformer
        if position_ids is None:
            positions = paddle.arange(input_ids.shape[1], dtype="int64").unsqueeze(0)
            position_ids = paddle.stack([positions, paddle.zeros_like(positions)], axis=1)
        hidden = self.glm.word_embeddings(input_ids)
        return (
            hidden + stack.position_embeddings(position_ids[:, 0]) + stack.block_position_embeddings(position_ids[:, 1])
        )

    def block(self, layer, hidden, bias):
        """One pre-norm Transformer layer over [batch, length, hidden]; bias as attention_bias() gives it."""
        query, key, value = self.project(layer, hidden)
        context = attend(query * self.score_scale, key, value, bias, layer.attention.attention_dropout)
        return self.finish_block(layer, hidden, context)

    def project(self, layer, hidden):
        """Query, key and value of [batch, length, hidden], each [batch, heads, length, head_dim].

        paddlenlp also divides by config.attention_scale and multiplies it back after subtracting a maximum. The softmax
        does not see that, so it is left out here.
        """
        mixed = layer.attention.query_key_value(layer.input_layernorm(hidden))
        heads = self.config.num_attention_heads
        return [part.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3]) for part in mixed.split(3, axis=-1)]

    def finish_block(self, layer, hidden, context):
        """The rest of a layer once attention has read its context [batch, length, hidden]."""
        attention = layer.attention
        hidden = hidden + attention.output_dropout(attention.dense(context))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def head(self, hidden):
        """Logits [..., vocab] of hidden states [..., hidden]."""
        return paddle.matmul(hidden, self.glm.word_embeddings.weight, transpose_y=True)

    @property
    def score_scale(self):
        """1 / sqrt(head_dim), applied to queries since they are the smaller side while decoding."""
        return 1.0 / math.sqrt(self.config.hidden_size // self.config.num_attention_heads)

    def prefill(self, input_ids, source_mask, mask_index):
        """Read sources once.

        input_ids: [batch, source] int64, [CLS] text [gMASK] <|endoftext|>, padded on the right.
        source_mask: [batch, source] float32, 1 at real tokens.
        mask_index: [batch] int64, where [gMASK] stands.
        Returns a Prefix.
        """
        bias = ((source_mask - 1.0) * -MASKED_SCORE).unsqueeze([1, 2])
        hidden = self.embed_source(input_ids)
        keys_values = []
        layers = self.glm.transformer.layers
        for layer in layers[:-1]:
            query, key, value = self.project(layer, hidden)
            context = attend(query * self.score_scale, key, value, bias)
            hidden = self.finish_block(layer, hidden, context)
            keys_values.append((contiguous(key), contiguous(value)))
        # Nobody reads the last layer's output at source positions: decoding only needs its keys and values.
        _, key, value = self.project(layers[-1], hidden)
        keys_values.append((contiguous(key), contiguous(value)))
        return Prefix(keys_values, bias, mask_index)

    def embed_source(self, input_ids):
        """Embeddings of a source, whose block position is 0 throughout: [batch, source, hidden]."""
        stack = self.glm.transformer
        positions = paddle.arange(paddle.shape(input_ids)[1], dtype="int64")
        hidden = self.glm.word_embeddings(input_ids) + stack.position_embeddings(positions).unsqueeze(0)
        return hidden + stack.block_position_embeddings.weight[0]

    def empty_cache(self, rows):
        """Keys and values of no generated token: for each layer two tensors [rows, heads, 0, head_dim].

        rows: int32 tensor []. The length is a tensor too, so that an exported program leaves it open.
        """
        heads = self.config.num_attention_heads
        shape = [rows, heads, paddle.zeros([], dtype="int32"), self.config.hidden_size // heads]
        return [paddle.full(shape, 0.0, dtype="float32") for _ in range(2 * self.config.num_layers)]

    def decode_step(self, tokens, step, prefix, cache, num_beams=1):
        """Logits of the token after `tokens`, and the cache grown by one.

        tokens: [batch * num_beams] int64, the target's token number `step` (number 0 is <|startofpiece|>).
        step: [1] int64.
        prefix: the sources' Prefix. Its keys and values are not copied for every beam: beams read them as queries do.
        cache: list of 2 * layers tensors [batch * num_beams, heads, step, head_dim], keys and values in turn.
        Returns logits [batch * num_beams, vocab] and the cache with length step + 1.
        """
        stack = self.glm.transformer
        mask_position = stack.position_embeddings(prefix.mask_index)
        if num_beams > 1:
            mask_position = mask_position.unsqueeze(1).expand([-1, num_beams, -1]).flatten(0, 1)
        hidden = self.glm.word_embeddings(tokens) + mask_position + stack.block_position_embeddings(step + 1)
        grown = []
        for index, layer in enumerate(stack.layers):
            query, key, value = self.project_step(layer, hidden)
            key = paddle.concat([cache[2 * index], key], axis=2)
            value = paddle.concat([cache[2 * index + 1], value], axis=2)
            grown += [key, value]
            context = attend_step(query, key, value, prefix.keys_values[index], prefix.score_bias, num_beams)
            hidden = self.finish_block(layer, hidden, context)
        return self.head(stack.final_layernorm(hidden)), grown

    def project_step(self, layer, hidden):
        """Query (scaled), key and value of single tokens [rows, hidden], each [rows, heads, 1, head_dim]."""
        heads = self.config.num_attention_heads
        size = self.config.hidden_size // heads
        mixed = layer.attention.query_key_value(layer.input_layernorm(hidden))
        query, key, value = (part.reshape([-1, heads, 1, size]) for part in mixed.split(3, axis=-1))
        return query * self.score_scale, key, value


def attend(query, key, value, bias, dropout=None):
    """Attention over whole sequences: context [batch, length, hidden].

    query (scaled), key, value: [batch, heads, length, head_dim]. bias: added to scores, of a shape that broadcasts to
    [batch, heads, length, length]. dropout: layer applied to the probabilities.
    """
    probabilities = F.softmax(paddle.matmul(query, key, transpose_y=True) + bias, axis=-1)
    if dropout is not None:
        probabilities = dropout(probabilities)
    return paddle.matmul(probabilities, value).transpose([0, 2, 1, 3]).flatten(2)


def contiguous(tensor):
    """The tensor laid out in memory as its shape says. Eagerly a transposed tensor is a view, which every matmul on CPU
    copies again: for keys and values of a long source, that would be most of a decoding step."""
    return tensor.contiguous() if paddle.in_dynamic_mode() else tensor


def attend_step(query, key, value, prefix_key_value, prefix_bias, num_beams):
    """Attention of one new token per row over its source and over what its row has generated.

    query: [batch * beams, heads, 1, head_dim], scaled. key, value: [batch * beams, heads, generated, head_dim].
    prefix_key_value: two tensors [batch, heads, source, head_dim]. Returns context [batch * beams, hidden].
    """
    prefix_key, prefix_value = prefix_key_value
    source = paddle.shape(prefix_key)[2]
    own_scores = paddle.matmul(query, key, transpose_y=True)
    beam_query = beams_to_queries(query, num_beams)
    scores = paddle.concat(
        [
            paddle.matmul(beam_query, prefix_key, transpose_y=True) + prefix_bias,
            beams_to_queries(own_scores, num_beams),
        ],
        axis=-1,
    )
    probabilities = F.softmax(scores, axis=-1)
    context = queries_to_beams(paddle.matmul(probabilities[:, :, :, :source], prefix_value), num_beams)
    own = queries_to_beams(probabilities[:, :, :, source:], num_beams)
    return (context + paddle.matmul(own, value)).flatten(1)


def beams_to_queries(rows, num_beams):
    """[batch * beams, heads, 1, size] → [batch, heads, beams, size]."""
    if num_beams == 1:
        return rows
    return rows.reshape([-1, num_beams, rows.shape[1], 0]).transpose([0, 2, 1, 3])


def queries_to_beams(queries, num_beams):
    """[batch, heads, beams, size] → [batch * beams, heads, 1, size]."""
    if num_beams == 1:
        return queries
    return queries.transpose([0, 2, 1, 3]).flatten(0, 1).unsqueeze(2)


def attention_bias(attention_mask, length):
    """What is added to scores: 0 where a key is visible, MASKED_SCORE elsewhere, [batch or 1, 1, length, length].

    attention_mask: as for GLMForConditionalGeneration.forward.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return (1.0 - attention_mask.astype("float32")) * MASKED_SCORE
    positions = paddle.arange(length, dtype="int64")
    visible = positions.unsqueeze(0) <= positions.unsqueeze(1)
    visible = visible.unsqueeze([0, 1])
    if attention_mask is not None:
        visible = visible | (positions < attention_mask.unsqueeze(-1)).unsqueeze([1, 2])
    return (~visible).astype("float32") * MASKED_SCORE


def smoothed_cross_entropy(logits, labels, label_smoothing=0.0):
    """Mean over tokens of the cross entropy against a target that gives `label_smoothing` to all pieces alike.

    logits: [tokens, vocab]; labels: [tokens] int64. -log p(y) = logsumexp - logit(y), and its mean over all pieces is
    logsumexp - mean(logits): no second [tokens, vocab] tensor is needed.
    """
    loss = F.cross_entropy(logits, labels, reduction="none").flatten()
    if label_smoothing:
        picked = paddle.take_along_axis(logits, labels.unsqueeze(-1), axis=-1).flatten()
        loss = loss + label_smoothing * (picked - logits.mean(axis=-1))
    return loss.mean()
