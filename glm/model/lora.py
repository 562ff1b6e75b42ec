"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): linear layers with a trained update of low rank beside their
frozen weights."""

import difflib
import math
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.autograd import PyLayer

from glm.errors import UserError
from glm.ops.cpu_kernels import linear, trained, without_padding_on_cpu
from glm.parallel.layers import ParallelLinear, RowParallelLinear, mark_divided
from glm.parallel.ranks import ALONE

# The linear layers of a transformer layer, and the part of it that each belongs to.
TARGETS = {"query_key_value": "attention", "dense": "attention", "dense_h_to_4h": "mlp", "dense_4h_to_h": "mlp"}
ALL = "all"


@dataclass(frozen=True)
class LoraConfig:
    """Shape and strength of an adapter.

    r: rank. alpha: the update is multiplied by alpha / r, with rslora by alpha / sqrt(r) (Kalajdzievski 2023,
    https://arxiv.org/abs/2312.03732). dropout: of the update's input, in training. target_modules: names in TARGETS.
    Raises UserError.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("query_key_value",)
    rslora: bool = False

    def __post_init__(self):
        if self.r < 1:
            raise UserError(f"LoRA's r is {self.r}; it must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"lora_alpha is {self.alpha}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora_dropout is {self.dropout}; it must be at least 0 and below 1")
        object.__setattr__(self, "target_modules", known_targets(self.target_modules))

    @property
    def scaling(self):
        """What the product of both factors is multiplied by."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


def known_targets(names):
    """Names in TARGETS, in its order, without repetition; "all" is all of them. Raises UserError."""
    wanted = set(TARGETS) if ALL in names else set(names)
    for name in sorted(wanted - TARGETS.keys()):
        near = difflib.get_close_matches(name, TARGETS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"it must be {ALL}, or of {', '.join(TARGETS)}"
        raise UserError(f"lora_target_modules has {name}; {advice}")
    if not wanted:
        raise UserError(f"lora_target_modules is empty; give {ALL}, or some of {', '.join(TARGETS)}")
    return tuple(name for name in TARGETS if name in wanted)


class AddedProduct(PyLayer):
    """base + low @ factor on CPU; base [tokens, out], low [tokens, r], factor [r, out]. paddle.addmm keeps `base` for
    the backward pass, which has no use of it: a quarter of what all layers keep, if all have LoRA."""

    @staticmethod
    def forward(ctx, base, low, factor):
        ctx.save_for_backward(low, factor)
        ctx.trained = trained(base, low, factor)
        return paddle.addmm(base, low, factor)

    @staticmethod
    def backward(ctx, gradient):
        low, factor = ctx.saved_tensor()
        of_base, of_low, of_factor = ctx.trained
        return (
            gradient.clone() if of_base else None,
            paddle.matmul(gradient, factor, transpose_y=True) if of_low else None,
            paddle.matmul(low, gradient, transpose_x=True) if of_factor else None,
        )


class LoRALinear(paddle.nn.Layer):
    """A linear layer with x @ weight + bias + scaling * dropout(x) @ lora_A @ lora_B.

    weight [in, out] and bias [out] are those of a paddle.nn.Linear, and are not trained. lora_A: [in, r], lora_B:
    [r, out], in the weight's dtype; lora_B begins at zero, and so does the update.
    """

    def __init__(self, plain, config, rng):
        """plain: paddle.nn.Linear. config: LoraConfig. rng: numpy Generator, for lora_A."""
        super().__init__(dtype=plain.weight.dtype)
        self.plain = (plain,)  # in a tuple, it does not count as a part of this layer
        self.weight, self.bias, self.scaling = plain.weight, plain.bias, config.scaling
        self.lora_dropout = paddle.nn.Dropout(config.dropout)
        inputs, outputs = plain.weight.shape
        # Not of itself: a layer's dtype is not that of its parameters.
        self.lora_A = self.create_parameter([inputs, config.r], dtype=plain.weight.dtype)
        self.lora_B = self.create_parameter([config.r, outputs], dtype=plain.weight.dtype)
        # As paddlenlp and the paper's code draw it: uniform, with the variance 1 / (3 * in). Of a layer divided by
        # rows, each rank takes its rows of the same draw.
        ranks = plain.ranks if isinstance(plain, RowParallelLinear) else ALONE
        rows = inputs * ranks.size
        first = np.split(rng.uniform(-1.0, 1.0, [rows, config.r]) / math.sqrt(rows), ranks.size)[ranks.rank]
        for factor, value in ((self.lora_A, first), (self.lora_B, np.zeros(self.lora_B.shape))):
            factor.set_value(paddle.to_tensor(value.astype("float32")).astype(factor.dtype))

    def forward(self, tokens, dropout=None):
        """tokens [..., in] → [..., out]; dropout: what is applied to the update's input, by default nothing."""
        plain = self.plain[0]
        base = linear(plain, tokens)
        low = paddle.matmul(tokens if dropout is None else dropout(tokens), self.lora_A) * self.scaling
        if isinstance(plain, ParallelLinear):
            low = plain.exchange(low)
        if without_padding_on_cpu(low):
            return AddedProduct.apply(base, low, self.lora_B)
        if low.ndim == 2:
            return paddle.addmm(base, low, self.lora_B)
        return base + paddle.matmul(low, self.lora_B)

    def merged(self):
        """The plain layer, with the update added to its weight. It stays added: this layer is of no use afterwards."""
        plain = self.plain[0]
        factors = (factor.astype("float32") for factor in (self.lora_A, self.lora_B))
        weight = plain.weight.astype("float32") + self.scaling * paddle.matmul(*factors)
        plain.weight.set_value(weight.astype(plain.weight.dtype))
        return plain


def adapted(layer, tokens, drop, place):
    """layer(tokens) of a linear layer, with or without LoRA; drop(dropout layer, place) gives the dropout to apply."""
    if isinstance(layer, LoRALinear):
        return layer(tokens, drop(layer.lora_dropout, place))
    return linear(layer, tokens)


def add_lora(model, config, seed=0, plus_scale=1.0):
    """Freeze a modeling.GLMForConditionalGeneration and give it LoRA layers, which alone are trained.

    plus_scale: the learning rate of lora_B over that of lora_A (LoRA+, Hayou et al. 2024,
    https://arxiv.org/abs/2402.12354). The draws of a layer depend on seed and place alone.
    """
    for parameter in model.parameters():
        parameter.stop_gradient = True
    # The optimizer's state is kept under the parameters' names: they must be the same in every process.
    with paddle.utils.unique_name.guard("lora_"):
        for number, (part, name) in enumerate(places(model, config.target_modules)):
            layer = LoRALinear(getattr(part, name), config, np.random.default_rng([seed, number]))
            layer.lora_B.optimize_attr["learning_rate"] = plus_scale
            setattr(part, name, layer)
    if model.ranks.size > 1:
        mark_divided(lora_parameters(model))
    return model


def merge_lora(model):
    """Add the updates of all LoRA layers to their weights and put the plain layers back."""
    for part, name in places(model, TARGETS):
        layer = getattr(part, name)
        if isinstance(layer, LoRALinear):
            setattr(part, name, layer.merged())
    return model


def places(model, names):
    """(part of a transformer layer, name of a linear layer in it) for all layers of a model and names in TARGETS."""
    return [(getattr(layer, TARGETS[name]), name) for layer in model.glm.transformer.layers for name in names]


def lora_parameters(model):
    """The parameters of a model's LoRA layers by name; empty if it has none."""
    return {name: value for name, value in model.named_parameters() if name.rpartition(".")[2] in ("lora_A", "lora_B")}
