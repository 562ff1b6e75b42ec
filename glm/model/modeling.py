"""GLM's forward pass, in training and in decoding.

Parameters and configuration have the names that paddlenlp's GLM gives them, so a stock checkpoint loads and saves
unchanged. What differs from the stock forward pass: attention is described by the source's length instead of a stored
square; the loss reads the head at target positions only; decoding keeps keys and values instead of hidden states.

GLM (Du et al. 2022, https://arxiv.org/abs/2103.10360) reads a source bidirectionally and continues it causally. Every
token has two positions: its place in the source (target tokens carry the place of the mask token they fill in), and its
place inside the target (0 in the source).
"""

import math

import paddle
import paddle.nn.functional as F
from paddle.distributed.fleet.utils import recompute

from glm.model.attention import attend, best_attention, bias_of_visible, only_targets
from glm.model.dropout import dropout_at, unchanged
from glm.model.layers import GLM
from glm.model.layout import Layout
from glm.model.lora import adapted
from glm.model.losses import cross_entropy
from glm.model.tied_weight import tied_gradient
from glm.ops.cpu_kernels import gelu, layer_norm
from glm.ops.dtypes import of_dtype
from glm.parallel.ranks import ALONE

# Places of dropout in a transformer layer; those of inputs are LoRA's.
PROBABILITIES, ATTENTION_OUTPUT, MLP_OUTPUT, QKV_INPUT, DENSE_INPUT, H_TO_4H_INPUT, H4_TO_H_INPUT = range(7)
# Those where each tensor-parallel rank has a part of its own.
DIVIDED = PROBABILITIES, DENSE_INPUT, H4_TO_H_INPUT


def no_dropout(dropout, place):
    """For a place of a layer, dropout that drops nothing."""
    return unchanged


def paddles_own(dropout, place):
    """For a place of a layer, its dropout layer itself: paddle draws, if the layer is in training mode."""
    return dropout


class GLMForConditionalGeneration(paddle.nn.Layer):
    """GLM with a language-modelling head tied to the word embeddings.

    config: GLMConfig, paddlenlp's or ours. ranks: ranks.Ranks among which its weights are divided, see
    parallel.layers.divide().
    """

    ranks = ALONE

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.glm = GLM(config)

    @property
    def heads(self):
        """Attention heads of this rank."""
        return self.config.num_attention_heads // self.ranks.size

    @property
    def head_dim(self):
        """Size of an attention head."""
        return self.config.hidden_size // self.config.num_attention_heads

    def forward(self, input_ids, position_ids=None, attention_mask=None, labels=None, label_smoothing=0.0, **examples):
        """Return logits [batch, length, vocab], or the mean loss over target tokens when labels are given.

        input_ids: [batch, length] int64.
        position_ids: [batch, 2, length] int64, source positions and block positions; default 0…length-1 and zeros.
        attention_mask: [batch] int64, the number of leading tokens that everyone sees, the rest being causal; or
            [batch or 1, 1, length, length], 1 where the query (third axis) sees the key (last axis). Default: causal.
        labels: [batch, length] int64, -100 where there is nothing to predict.
        label_smoothing: weight of the uniform distribution in the target (Szegedy et al. 2016).
        examples: see loss_of_examples(), which is called where `lengths` is given.
        """
        if "lengths" in examples:
            return self.loss_of_examples(input_ids, position_ids, labels, label_smoothing, **examples)
        hidden = self.glm.transformer.embedding_dropout(self.embed(input_ids, position_ids))
        bias = of_dtype(attention_bias(attention_mask, input_ids.shape[1]), hidden.dtype)
        for layer in self.glm.transformer.layers:
            query, key, value = self.project(layer, hidden, paddles_own)
            context = merge_heads(attend(query, key, value, layer.attention.attention_dropout, bias))
            hidden = self.finish_block(layer, hidden, context, paddles_own)
        hidden = self.glm.transformer.final_layernorm(hidden)
        if labels is None:
            return self.head(hidden)
        labels = labels.flatten()
        targets = paddle.nonzero(labels >= 0).flatten()
        hidden = paddle.gather(hidden.flatten(0, 1), targets)
        return self.mean_loss(hidden, paddle.gather(labels, targets), label_smoothing, targets.shape[0])

    def mean_loss(self, hidden, labels, label_smoothing, divisor, tied=None):
        """losses.cross_entropy() of hidden states [targets, hidden] against the tied head, divided by a number."""
        weight = self.glm.word_embeddings.weight
        return cross_entropy(hidden, weight, labels, label_smoothing, ranks=self.ranks, scale=1 / divisor, tied=tied)

    def loss_of_examples(self, input_ids, position_ids, labels, label_smoothing, *, lengths, divisor, noise=None):
        """The loss summed over the target tokens of examples without padding, divided by a number.

        input_ids: [tokens] int64, laid out as layout.Layout says; position_ids: [2, tokens]; labels: [targets] int64;
        lengths: [examples, 2] int64, of sources and targets. divisor: the target tokens of the optimizer step.
        noise: dropout.Noise; None drops nothing. The probabilities are those of the model's dropout layers.
        """
        stack, layout = self.glm.transformer, Layout.of(lengths)
        attention = best_attention(layout, self.heads)
        tied = tied_gradient(self.glm.word_embeddings.weight)
        hidden = self.embed(input_ids.unsqueeze(0), position_ids.unsqueeze(0), tied).squeeze(0)
        if noise is not None:
            hidden = noise.add_to_embeddings(hidden, layout)
        hidden = dropout_at(noise, stack.embedding_dropout, 0)(hidden)
        for number, layer in enumerate(stack.layers):
            last = number + 1 == len(stack.layers)
            arguments = layer, number, hidden, attention, noise, last
            if stack.enable_recompute and not hidden.stop_gradient:
                hidden = recompute(self.block, *arguments)
            else:
                hidden = self.block(*arguments)
        hidden = layer_norm(stack.final_layernorm, hidden)
        return self.mean_loss(hidden, labels, label_smoothing, divisor, tied)

    def block(self, layer, number, hidden, attention, noise, last):
        """Transformer layer `number` over [tokens, hidden]; the last one gives target tokens alone, which the head
        reads."""

        def drop(dropout, place):
            # What ranks have alike they drop alike; what each has its own part of, each by its own draws.
            own = (self.ranks.rank,) if self.ranks.size > 1 and place in DIVIDED else ()
            return dropout_at(noise, dropout, number + 1, place, *own)

        normal = layer_norm(layer.input_layernorm, hidden)
        mixed = adapted(layer.attention.query_key_value, normal, drop, QKV_INPUT)
        context = attention(mixed, drop(layer.attention.attention_dropout, PROBABILITIES), targets_only=last)
        if last:
            hidden = only_targets(hidden, attention.layout)
        return self.finish_block(layer, hidden, context, drop)

    def embed(self, input_ids, position_ids=None, tied=None):
        """Sum of word, position and block position embeddings, [batch, length, hidden]; tied: the TiedGradient of the
        words', or None."""
        stack = self.glm.transformer
        if position_ids is None:
            positions = paddle.arange(input_ids.shape[1], dtype="int64").unsqueeze(0)
            position_ids = paddle.stack([positions, paddle.zeros_like(positions)], axis=1)
        hidden = self.glm.word_embeddings(input_ids, tied)
        return (
            hidden + stack.position_embeddings(position_ids[:, 0]) + stack.block_position_embeddings(position_ids[:, 1])
        )

    def project(self, layer, hidden, drop=no_dropout):
        """Query (scaled by 1 / sqrt(head_dim)), key and value of [batch, length, hidden], each [batch, heads, length,
        head_dim].

        paddlenlp also divides by config.attention_scale and multiplies it back after subtracting a maximum. The softmax
        does not see that, so it is left out here.
        """
        normal = layer_norm(layer.input_layernorm, hidden)
        mixed = adapted(layer.attention.query_key_value, normal, drop, QKV_INPUT)
        query, key, value = split_heads(mixed, self.heads, self.head_dim)
        return query / math.sqrt(self.head_dim), key, value

    def finish_block(self, layer, hidden, context, drop=no_dropout):
        """The rest of a layer once attention has read its context [..., hidden].

        drop(dropout layer, place) gives the dropout to apply at a place of the layer.
        """
        attention, mlp = layer.attention, layer.mlp
        update = adapted(attention.dense, context, drop, DENSE_INPUT)
        hidden = hidden + drop(attention.output_dropout, ATTENTION_OUTPUT)(update)
        normal = layer_norm(layer.post_attention_layernorm, hidden)
        inner = gelu(adapted(mlp.dense_h_to_4h, normal, drop, H_TO_4H_INPUT))
        return hidden + drop(mlp.dropout, MLP_OUTPUT)(adapted(mlp.dense_4h_to_h, inner, drop, H4_TO_H_INPUT))

    def head(self, hidden):
        """Logits [..., vocab] of hidden states [..., hidden]."""
        return self.ranks.columns(paddle.matmul(hidden, self.glm.word_embeddings.weight, transpose_y=True))

    def prefill(self, input_ids, source_mask, mask_index):
        """Read sources once.

        input_ids: [prompts, source] int64, [CLS] text [gMASK] <|endoftext|>, padded on the right.
        source_mask: [prompts, source] float32, 1 at real tokens.
        mask_index: [prompts] int64, where [gMASK] stands.
        Returns keys and values, 2 * layers tensors [prompts, heads, source, head_dim], keys first; and [prompts, 1,
        hidden], the embedding of the position that all target tokens carry.
        """
        stack = self.glm.transformer
        hidden = self.embed_source(input_ids)
        bias = of_dtype(bias_of_visible(source_mask), hidden.dtype)
        keys, values = [], []
        for layer in stack.layers:
            query, key, value = self.project(layer, hidden)
            keys.append(key)
            values.append(value)
            # Nobody reads the last layer's output at source positions: decoding only needs its keys and values.
            if len(keys) < len(stack.layers):
                hidden = self.finish_block(layer, hidden, attend_to_source(query, key, value, bias))
        return [*keys, *values], stack.position_embeddings(mask_index).unsqueeze(1)

    def embed_source(self, input_ids):
        """Embeddings of a source, whose block position is 0 throughout: [prompts, source, hidden]."""
        stack = self.glm.transformer
        positions = paddle.arange(paddle.shape(input_ids)[1], dtype="int64")
        places = stack.position_embeddings(positions) + stack.block_position_embeddings.weight[0]
        return self.glm.word_embeddings(input_ids) + places.unsqueeze(0)

    def empty_cache(self, prompts):
        """Keys and values of no token: 2 * layers tensors [prompts, heads, 0, head_dim].

        prompts: int32 tensor []. The length is a tensor too, so that an exported program leaves it open.
        """
        shape = [prompts, self.heads, paddle.zeros([], dtype="int32"), self.head_dim]
        dtype = self.glm.transformer.final_layernorm.weight.dtype
        return [paddle.full(shape, 0.0, dtype=dtype) for _ in range(2 * self.config.num_layers)]

    def decode_step(self, tokens, number, settled, recent, target_position, lineage):
        """Read the target's token number `number` (number 0 is <|startofpiece|>) of one or more texts of each prompt.

        tokens: [prompts, texts] int64. number: [1] int64.
        settled, recent: keys and values of what came before, in two parts: 2 * layers tensors each, [prompts, heads,
            entries, head_dim]. target_position: as prefill() gives it.
        lineage: [prompts, texts, all entries, those of `tokens` too] float32, 1 where an entry belongs to the text and
            0 elsewhere.
        Returns the last hidden states [prompts, texts, hidden], for the head, and recent with `texts` entries more.
        """
        stack, layers = self.glm.transformer, self.config.num_layers
        hidden = self.glm.word_embeddings(tokens) + target_position + stack.block_position_embeddings(number + 1)
        # Expanded once for all layers: adding a tensor of fewer dimensions is many times slower on CPU.
        bias = of_dtype(bias_of_visible(lineage).unsqueeze(1).tile([1, self.heads, 1, 1]), hidden.dtype)
        first = paddle.shape(settled[0])[2]
        keys, values = [], []
        for index, layer in enumerate(stack.layers):
            query, key, value = self.project(layer, hidden)
            keys.append(paddle.concat([recent[index], key], axis=2))
            values.append(paddle.concat([recent[layers + index], value], axis=2))
            parts = (settled[index], settled[layers + index]), (keys[-1], values[-1])
            hidden = self.finish_block(layer, hidden, attend_to_both(query, *parts, bias, first))
        return stack.final_layernorm(hidden), [*keys, *values]


def split_heads(mixed, heads, head_dim):
    """Query, key and value, each [batch, heads, length, head_dim], of their projection [batch, length, 3 * hidden]."""
    if mixed.shape[1] == 1:
        return mixed.reshape([0, 3 * heads, 1, head_dim]).split(3, axis=1)
    return mixed.reshape([0, 0, 3 * heads, head_dim]).transpose([0, 2, 1, 3]).split(3, axis=1)


def merge_heads(context, length=None):
    """[batch, heads, length, head_dim] → [batch, length, hidden].

    length: where context has lost it, as results of split() do in a program.
    """
    if (length or context.shape[2]) == 1:
        return context.reshape([0, 1, context.shape[1] * context.shape[3]])
    return context.transpose([0, 2, 1, 3]).flatten(2)


def attend_to_source(query, key, value, bias):
    """Attention of all source tokens to all: context [prompts, source, hidden].

    bias: [prompts, source], added to the scores of a key. It enters the product as one more dimension of the heads,
    which costs next to nothing; added to the scores, it would take longer than the product.
    """
    column = bias.unsqueeze([1, 3]) + paddle.zeros_like(key[:, :, :, :1])
    query = paddle.concat([query, paddle.ones_like(column)], axis=3)
    key = paddle.concat([key, column], axis=3)
    return merge_heads(paddle.matmul(F.softmax(paddle.matmul(query, key, transpose_y=True)), value))


def attend_to_both(query, settled, recent, bias, first):
    """Attention of new tokens to two parts of what came before: context [prompts, texts, hidden].

    query: [prompts, heads, texts, head_dim], scaled. settled, recent: keys and values, each [prompts, heads, entries,
    head_dim]; first: the number of settled entries. bias: [prompts, heads, texts, all entries].
    """
    scores = [paddle.matmul(query, keys, transpose_y=True) for keys, _ in (settled, recent)]
    probabilities = F.softmax(paddle.concat(scores, axis=3) + bias)
    of_settled, of_recent = probabilities.split([first, -1], axis=3)
    context = paddle.matmul(of_settled, settled[1]) + paddle.matmul(of_recent, recent[1])
    return merge_heads(context, query.shape[2])


def attention_bias(attention_mask, length):
    """What is added to scores: 0 where a key is visible, MASKED_SCORE elsewhere, [batch or 1, 1, length, length].

    attention_mask: as for GLMForConditionalGeneration.forward.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return bias_of_visible(attention_mask.astype("float32"))
    positions = paddle.arange(length, dtype="int64")
    visible = positions.unsqueeze(0) <= positions.unsqueeze(1)
    visible = visible.unsqueeze([0, 1])
    if attention_mask is not None:
        visible = visible | (positions < attention_mask.unsqueeze(-1)).unsqueeze([1, 2])
    return bias_of_visible(visible.astype("float32"))
