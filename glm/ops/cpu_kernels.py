"""What is written for CPU alone: operators of training that paddle 2.6 computes many times slower than they need, their
gradients above all; and one of programs. Each equals paddle's own.
"""

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer
from paddle.base.layer_helper import LayerHelper

from glm import stacks
from glm.ops import device, numpy_kernels, onednn


def kernels():
    """What computes them here: onednn, or numpy_kernels with the same functions."""
    return onednn if onednn.library() else numpy_kernels


def trained(*tensors):
    """Of each tensor, whether its gradient is wanted: paddle refuses one that is not."""
    return [not tensor.stop_gradient for tensor in tensors]


class Dropped(PyLayer):
    """tensor * kept * scale; kept: bool array of as many numbers."""

    @staticmethod
    def forward(ctx, tensor, kept, scale):
        ctx.kept, ctx.scale = kept, scale
        return kernels().times_kept(tensor.contiguous(), kept, scale, paddle.empty_like(tensor))

    @staticmethod
    def backward(ctx, gradient):
        return kernels().times_kept(gradient.contiguous(), ctx.kept, ctx.scale, paddle.empty_like(gradient))


class Linear(PyLayer):
    """tokens @ weight + bias; tokens [tokens, in], weight [in, out], bias [out]. paddle sums the bias's gradient over
    columns, which takes longer than both products."""

    @staticmethod
    def forward(ctx, tokens, weight, bias):
        ctx.save_for_backward(tokens, weight)
        ctx.trained = trained(tokens, weight, bias)
        return kernels().add_bias_(paddle.matmul(tokens, weight), bias)

    @staticmethod
    def backward(ctx, gradient):
        tokens, weight = ctx.saved_tensor()
        of_tokens, of_weight, of_bias = ctx.trained
        return (
            paddle.matmul(gradient, weight, transpose_y=True) if of_tokens else None,
            paddle.matmul(tokens, gradient, transpose_x=True) if of_weight else None,
            bias_gradient(gradient) if of_bias else None,
        )


class LayerNorm(PyLayer):
    """Layer normalisation (Ba et al. 2016) of [tokens, hidden] with a weight and a bias [hidden]."""

    @staticmethod
    def forward(ctx, tokens, weight, bias, epsilon):
        tokens = tokens.contiguous()
        result, mean, variance = kernels().layer_norm(tokens, weight, bias, epsilon)
        ctx.save_for_backward(tokens, weight, bias, mean, variance)
        ctx.epsilon, ctx.trained = epsilon, trained(tokens, weight, bias)
        return result

    @staticmethod
    def backward(ctx, gradient):
        found = kernels().layer_norm_gradients(*ctx.saved_tensor(), gradient.contiguous(), ctx.epsilon)
        return tuple(value if wanted else None for value, wanted in zip(found, ctx.trained, strict=True))


class Gelu(PyLayer):
    """The tanh form of GELU (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415)."""

    @staticmethod
    def forward(ctx, tokens):
        tokens = tokens.contiguous()
        ctx.save_for_backward(tokens)
        return kernels().gelu(tokens)

    @staticmethod
    def backward(ctx, gradient):
        return kernels().gelu_gradient(*ctx.saved_tensor(), gradient.contiguous())


def linear(layer, tokens):
    """layer(tokens), by what is faster for a plain linear layer: Linear in training on CPU, tokens [tokens, in]; one
    operator instead of two in a program, tokens [batch, length, in]."""
    if type(layer) is paddle.nn.Linear and layer.bias is not None:
        # Half precision is for GPUs, whose kernel of it nobody has tried; the two operators are what models train by.
        if not paddle.in_dynamic_mode() and stacks.current().has_fc and layer.weight.dtype == paddle.float32:
            return fully_connected(tokens, layer.weight, layer.bias)
        return product(tokens, layer.weight, layer.bias)
    return layer(tokens)


def product(tokens, weight, bias):
    """tokens [..., in] @ weight + bias, by Linear where that is faster."""
    return (Linear.apply if without_padding_on_cpu(tokens) else F.linear)(tokens, weight, bias)


class AddedBias(PyLayer):
    """tokens [tokens, n] + bias [n], with the cheap gradient of the bias that Linear has."""

    @staticmethod
    def forward(ctx, tokens, bias):
        ctx.trained = trained(tokens, bias)
        return kernels().add_bias_(tokens.clone(), bias)

    @staticmethod
    def backward(ctx, gradient):
        of_tokens, of_bias = ctx.trained
        return gradient.clone() if of_tokens else None, bias_gradient(gradient) if of_bias else None


def add_bias(tokens, bias):
    """tokens [..., n] + bias [n], by AddedBias where that is faster."""
    return AddedBias.apply(tokens, bias) if without_padding_on_cpu(tokens) else tokens + bias


def bias_gradient(gradient):
    """The sum of [tokens, n] over tokens."""
    return paddle.matmul(paddle.ones([1, gradient.shape[0]]), gradient).flatten()


def fully_connected(tokens, weight, bias):
    """tokens [batch, length, in] @ weight + bias as one operator of a static program.

    Each operator of a loop costs some microseconds in every step, whatever it does.
    """
    helper = LayerHelper("fc")
    result = helper.create_variable_for_type_inference(dtype=tokens.dtype)
    inputs = {"Input": tokens, "W": weight, "Bias": bias}
    helper.append_op(type="fc", inputs=inputs, outputs={"Out": result}, attrs={"in_num_col_dims": 2})
    return result


def layer_norm(layer, tokens):
    """layer(tokens), by LayerNorm where that is faster: in training on CPU, tokens [tokens, hidden]."""
    if type(layer) is paddle.nn.LayerNorm and without_padding_on_cpu(tokens):
        return LayerNorm.apply(tokens, layer.weight, layer.bias, layer._epsilon)
    return layer(tokens)


def gelu(tokens):
    """The tanh form of GELU, by Gelu where that is faster: in training on CPU, tokens [tokens, n]."""
    return Gelu.apply(tokens) if without_padding_on_cpu(tokens) else F.gelu(tokens, approximate=True)


def without_padding_on_cpu(tokens):
    """Whether an operator is asked of [tokens, n] float32 on CPU: the training pass, whether or not gradients are
    wanted, for a layer that is recomputed has to give the same numbers both times."""
    if not paddle.in_dynamic_mode() or device.takes_gpu_branches():
        return False
    return tokens.ndim == 2 and tokens.dtype == paddle.float32
