"""The layers whose weights are divided among ranks.

As in Megatron-LM (Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053, section 3): a pair of layers, one divided by
columns and the next by rows, needs one sum over the ranks forward, after the second, and one backward, before the
first.
"""

import paddle

from glm.ops.cpu_kernels import add_bias, product
from glm.parallel.sharding import axis_of, local_shape


class ParallelLinear(paddle.nn.Layer):
    """A linear layer of which each rank has a part. exchange: what becomes of [tokens, r], the input of the second
    factor of LoRA, which is divided with the layer's other side."""

    def __init__(self, shape, bias_shape, ranks):
        super().__init__()
        self.ranks = ranks
        self.weight = self.create_parameter(shape)
        self.bias = self.create_parameter(bias_shape, is_bias=True)


class ColumnParallelLinear(ParallelLinear):
    """Divided by columns: tokens [..., in], which all ranks have, → [..., out / ranks]."""

    def forward(self, tokens):
        return product(self.ranks.copy(tokens), self.weight, self.bias)

    def exchange(self, low):
        return self.ranks.copy(low)


class RowParallelLinear(ParallelLinear):
    """Divided by rows: tokens [..., in / ranks] → [..., out], which all ranks get."""

    def forward(self, tokens):
        return add_bias(self.ranks.sum(paddle.matmul(tokens, self.weight)), self.bias)

    def exchange(self, low):
        return self.ranks.sum(low)


class VocabularyParallelEmbedding(paddle.nn.Layer):
    """Embeddings divided by rows of the vocabulary: ids, which all ranks have, → [..., hidden], which all ranks get."""

    def __init__(self, shape, ranks):
        super().__init__()
        self.ranks = ranks
        self.weight = self.create_parameter(shape)

    def forward(self, ids, tied=None):
        """tied: see model.layers.Embedding."""
        rows = self.weight.shape[0]
        own = ids - self.ranks.rank * rows
        mine = (own >= 0) & (own < rows)
        own = paddle.clip(own, 0, rows - 1)
        found = paddle.nn.functional.embedding(own, self.weight) if tied is None else tied.rows(self.weight, own)
        return self.ranks.sum(found * mine.astype(found.dtype).unsqueeze(-1))


def divide(model, ranks):
    """Put parallel layers in place of the linear layers and the word embeddings of a model without weights.

    Parameters keep their names, and those that are divided know it (is_distributed).
    """
    embeddings = model.glm.word_embeddings.weight
    shape = local_shape("word_embeddings.weight", embeddings.shape, ranks.size)
    model.glm.word_embeddings = VocabularyParallelEmbedding(shape, ranks)
    for number, layer in enumerate(model.glm.transformer.layers):
        for part, name, kind in (
            ("attention", "query_key_value", ColumnParallelLinear),
            ("attention", "dense", RowParallelLinear),
            ("mlp", "dense_h_to_4h", ColumnParallelLinear),
            ("mlp", "dense_4h_to_h", RowParallelLinear),
        ):
            owner = getattr(layer, part)
            plain, path = getattr(owner, name), f"layers.{number}.{part}.{name}"
            shapes = (local_shape(f"{path}.{w}", getattr(plain, w).shape, ranks.size) for w in ("weight", "bias"))
            setattr(owner, name, kind(*map(list, shapes), ranks))
    mark_divided(dict(model.named_parameters()))
    model.ranks = ranks
    return model


def mark_divided(parameters):
    """Set is_distributed of those parameters (by name) that are divided, as paddle's optimizers want to know it."""
    for name, parameter in parameters.items():
        parameter.is_distributed = axis_of(name) is not None
