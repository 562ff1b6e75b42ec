"""The operators of onednn.py where there is no oneDNN, as their definitions say, by paddle and NumPy.

NumPy works on paddle's memory here, without copies.
"""

import math

import numpy as np
import paddle
import paddle.nn.functional as F

SLOPE, CUBE = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)


class Memory:
    """The memory of a float32 tensor on CPU, as NumPy asks for it; an array of it holds this, and this the tensor."""

    def __init__(self, tensor):
        self.tensor = tensor
        address = tensor.data_ptr(), False
        self.__array_interface__ = {"data": address, "shape": tuple(tensor.shape), "typestr": "<f4", "version": 3}


def as_array(tensor):
    """A float32 tensor on CPU as a NumPy array of the same memory."""
    return np.asarray(Memory(tensor))


def product(left, right, result, scale=1.0):
    """See onednn."""
    np.matmul(left, right, out=result)
    np.multiply(result, np.float32(scale), out=result)


def scale_(tensor, factor):
    """See onednn."""
    array = as_array(tensor)
    array *= as_array(factor).reshape(())


def gelu(tensor):
    """See onednn."""
    return F.gelu(tensor, approximate=True)


def gelu_gradient(tensor, gradient):
    """See onednn."""
    result = paddle.empty_like(tensor)
    x, of_x = as_array(tensor), as_array(result)
    # gelu(x) = x * (1 + t) / 2, t = tanh(SLOPE * (x + CUBE * x^3)), and t' = (1 - t^2) * SLOPE * (1 + 3 * CUBE * x^2).
    square = x * x
    np.multiply(square, CUBE, out=of_x)
    of_x += 1
    of_x *= x
    of_x *= SLOPE
    np.tanh(of_x, out=of_x)
    square *= 3 * CUBE
    square += 1
    square *= x
    square *= SLOPE
    square *= 1 - of_x * of_x
    of_x += 1
    of_x += square
    of_x *= as_array(gradient)
    of_x *= np.float32(0.5)
    return result


def softmax_(scores):
    """See onednn."""
    array = as_array(scores)
    array -= array.max(axis=-1, keepdims=True)
    np.exp(array, out=array)
    array /= array.sum(axis=-1, keepdims=True)
    return scores


def softmax_gradient_(probabilities, gradient):
    """See onednn."""
    p, result = as_array(probabilities), as_array(gradient)
    result -= np.einsum("...i,...i->...", p, result)[..., None]
    result *= p
    return gradient


def times_kept(tensor, kept, scale, result):
    """See onednn."""
    array = as_array(result).reshape(-1)
    np.multiply(as_array(tensor).reshape(-1), kept.reshape(-1), out=array)
    np.multiply(array, np.float32(scale), out=array)
    return result


def add_bias_(tokens, bias):
    """See onednn."""
    array = as_array(tokens)
    array += as_array(bias)
    return tokens


def layer_norm(tokens, weight, bias, epsilon):
    """See onednn."""
    x = as_array(tokens)
    mean, variance = (paddle.to_tensor(values) for values in (x.mean(axis=1), x.var(axis=1)))
    return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, epsilon), mean, variance


def layer_norm_gradients(tokens, weight, bias, mean, variance, gradient, epsilon):
    """See onednn."""
    dy, x, hidden = as_array(gradient), as_array(tokens), tokens.shape[1]
    scale = 1 / np.sqrt(as_array(variance)[:, None] + np.float32(epsilon))
    normal = (x - as_array(mean)[:, None]) * scale
    of_weight, of_bias = paddle.to_tensor((dy * normal).sum(axis=0)), paddle.to_tensor(dy.sum(axis=0))
    result = paddle.empty_like(tokens)
    dx = as_array(result)
    # d normal = dy * weight, less its mean and less its part along normal.
    np.multiply(dy, as_array(weight), out=dx)
    along = np.einsum("ij,ij->i", dx, normal)[:, None] / hidden
    dx -= dx.mean(axis=1, keepdims=True)
    normal *= along
    dx -= normal
    dx *= scale
    return result, of_weight, of_bias
