"""What is written for CPU alone: operators of training whose gradients paddle 2.6 computes many times slower than their
forward passes, or that its generator of random numbers holds up; and one of programs. Each equals paddle's own.

NumPy works on paddle's memory here, without copies.
"""

import ctypes

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer
from paddle.base.layer_helper import LayerHelper

from glm import stacks
from glm.ops import device


def as_array(tensor):
    """The memory of a float32 tensor on CPU as a NumPy array, for as long as the tensor lives."""
    pointer = ctypes.cast(tensor.data_ptr(), ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, tuple(tensor.shape))


class Dropped(PyLayer):
    """tensor * kept * scale; kept: bool array of as many numbers."""

    @staticmethod
    def forward(ctx, tensor, kept, scale):
        ctx.kept, ctx.scale = kept, scale
        return scaled_where(tensor, kept, scale)

    @staticmethod
    def backward(ctx, gradient):
        return scaled_where(gradient, ctx.kept, ctx.scale)


def scaled_where(tensor, kept, scale):
    """tensor * scale where kept, 0 elsewhere."""
    result = paddle.empty_like(tensor)
    array = as_array(result).reshape(-1)
    np.multiply(as_array(tensor).reshape(-1), kept, out=array)
    np.multiply(array, np.float32(scale), out=array)
    return result


class Linear(PyLayer):
    """tokens @ weight + bias; tokens [tokens, in], weight [in, out], bias [out]. paddle sums the bias's gradient over
    columns, which takes longer than both products."""

    @staticmethod
    def forward(ctx, tokens, weight, bias):
        ctx.save_for_backward(tokens, weight)
        ctx.trained = not weight.stop_gradient, not bias.stop_gradient
        return F.linear(tokens, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        tokens, weight = ctx.saved_tensor()
        of_weight, of_bias = ctx.trained
        return (
            paddle.matmul(gradient, weight, transpose_y=True),
            paddle.matmul(tokens, gradient, transpose_x=True) if of_weight else None,
            bias_gradient(gradient) if of_bias else None,
        )


class LayerNorm(PyLayer):
    """Layer normalisation (Ba et al. 2016) of [tokens, hidden] with a weight and a bias [hidden]."""

    @staticmethod
    def forward(ctx, tokens, weight, bias, epsilon):
        ctx.save_for_backward(tokens, weight)
        ctx.epsilon = epsilon
        ctx.trained = not weight.stop_gradient, not bias.stop_gradient
        return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, epsilon)

    @staticmethod
    def backward(ctx, gradient):
        tokens, weight = ctx.saved_tensor()
        dy, x = as_array(gradient), as_array(tokens)
        hidden = x.shape[1]
        normal = x - x.mean(axis=1, keepdims=True)
        scale = 1.0 / np.sqrt(np.einsum("ij,ij->i", normal, normal)[:, None] / hidden + np.float32(ctx.epsilon))
        normal *= scale
        of_weight, of_bias = ctx.trained
        dweight = paddle.to_tensor((dy * normal).sum(axis=0)) if of_weight else None
        dbias = paddle.to_tensor(dy.sum(axis=0)) if of_bias else None
        result = paddle.empty_like(tokens)
        dx = as_array(result)
        # d normal = dy * weight, less its mean and less its part along normal.
        np.multiply(dy, as_array(weight), out=dx)
        along = np.einsum("ij,ij->i", dx, normal)[:, None] / hidden
        dx -= dx.mean(axis=1, keepdims=True)
        normal *= along
        dx -= normal
        dx *= scale
        return result, dweight, dbias


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
    return (Linear.apply if trains_on_cpu(tokens) else F.linear)(tokens, weight, bias)


class AddedBias(PyLayer):
    """tokens [tokens, n] + bias [n], with the cheap gradient of the bias that Linear has."""

    @staticmethod
    def forward(ctx, tokens, bias):
        ctx.trained = not bias.stop_gradient
        return tokens + bias

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone(), bias_gradient(gradient) if ctx.trained else None


def add_bias(tokens, bias):
    """tokens [..., n] + bias [n], by AddedBias where that is faster."""
    return AddedBias.apply(tokens, bias) if trains_on_cpu(tokens) else tokens + bias


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
    if type(layer) is paddle.nn.LayerNorm and trains_on_cpu(tokens):
        return LayerNorm.apply(tokens, layer.weight, layer.bias, layer._epsilon)
    return layer(tokens)


def trains_on_cpu(tokens):
    """Whether gradients are wanted of what is computed from [tokens, n] float32 on CPU."""
    if not paddle.in_dynamic_mode() or device.takes_gpu_branches():
        return False
    return tokens.ndim == 2 and not tokens.stop_gradient and tokens.dtype == paddle.float32
