"""The operators of training on CPU, of oneDNN and of NumPy, against their definitions in float64 and paddle's own."""

import gc
import threading

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.ops import numpy_kernels, onednn
from glm.ops.numpy_kernels import as_array

KERNELS = [numpy_kernels] if onednn.library() is None else [numpy_kernels, onednn]
by_kernels = pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.__name__.rpartition(".")[2])
# Of one number, of none that a processor's registers divide, and of several blocks of them.
SHAPES = [(1, 1), (3, 1), (1, 7), (5, 16), (37, 129), (700, 48)]
by_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def drawn(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("float32")


def close(actual, expected, tolerance=1e-5):
    """Equal but for rounding, as measured at the largest number."""
    actual = actual.numpy() if isinstance(actual, paddle.Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def by_paddle(function, inputs, gradient):
    """(result, gradients of the inputs) of a function of paddle's, arrays; gradient: that of the result."""
    tensors = [paddle.to_tensor(value, stop_gradient=False) for value in inputs]
    result = function(*tensors)
    result.backward(paddle.to_tensor(gradient))
    return result.numpy(), [tensor.grad.numpy() for tensor in tensors]


@by_kernels
@by_shapes
def test_gelu_and_its_gradient_are_paddles(kernels, shape):
    x, gradient = drawn(*shape, scale=3), drawn(*shape, seed=1)
    expected, (of_x,) = by_paddle(lambda t: F.gelu(t, approximate=True), [x], gradient)
    close(kernels.gelu(paddle.to_tensor(x)), expected)
    close(kernels.gelu_gradient(paddle.to_tensor(x), paddle.to_tensor(gradient)), of_x)


@by_kernels
@by_shapes
def test_softmax_and_its_gradient_are_the_definition_in_place(kernels, shape):
    # Some numbers are masked, and some rows lie far from 0.
    x, gradient = drawn(*shape, scale=4).astype("float64"), drawn(*shape, seed=1)
    x[::2] += 500
    x[:, 1::3] = -65504.0
    scores, of_result = paddle.to_tensor(x.astype("float32")), paddle.to_tensor(gradient)
    power = np.exp(x - x.max(axis=-1, keepdims=True))
    p = power / power.sum(axis=-1, keepdims=True)
    assert kernels.softmax_(scores) is scores
    close(scores, p, 3e-5)
    assert kernels.softmax_gradient_(scores, of_result) is of_result
    close(of_result, p * (gradient - (p * gradient).sum(axis=-1, keepdims=True)), 1e-4)


@by_kernels
@by_shapes
def test_layer_norm_and_its_gradients_are_paddles(kernels, shape):
    hidden = shape[1] + 1
    x, gradient = drawn(shape[0], hidden) * 2 + 5, drawn(shape[0], hidden, seed=1)
    weight, bias = 1 + drawn(hidden, seed=2), drawn(hidden, seed=3)
    function = lambda *inputs: F.layer_norm(inputs[0], [hidden], *inputs[1:], 1e-5)  # noqa: E731
    expected, gradients = by_paddle(function, [x, weight, bias], gradient)
    tensors = [paddle.to_tensor(value) for value in (x, weight, bias)]
    result, *statistics = kernels.layer_norm(*tensors, 1e-5)
    close(result, expected)
    found = kernels.layer_norm_gradients(*tensors, *statistics, paddle.to_tensor(gradient), 1e-5)
    for actual, wanted in zip(found, gradients, strict=True):
        close(actual, wanted, 5e-5)


@by_kernels
@by_shapes
@pytest.mark.parametrize("in_place", [False, True])
def test_dropped_numbers_are_zero_and_the_rest_scaled(kernels, shape, in_place):
    x, kept = drawn(*shape), drawn(*shape, seed=1) > -0.5
    tensor = paddle.to_tensor(x)
    result = tensor if in_place else paddle.empty(shape)
    assert kernels.times_kept(tensor, kept, 1.25, result) is result
    close(result, np.where(kept, x * np.float32(1.25), 0))
    assert in_place or np.array_equal(tensor.numpy(), x)


@by_kernels
@by_shapes
def test_a_bias_is_added_and_a_factor_multiplied_in_place(kernels, shape):
    x, bias = drawn(*shape), drawn(shape[1], seed=1)
    tensor = paddle.to_tensor(x)
    assert kernels.add_bias_(tensor, paddle.to_tensor(bias)) is tensor
    close(tensor, x + bias)
    kernels.scale_(tensor, paddle.to_tensor([0.375]))
    close(tensor, (x + bias) * np.float32(0.375))


sizes = st.integers(1, 40)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KERNELS), st.integers(1, 3), sizes, sizes, sizes, st.tuples(*[st.booleans()] * 3), st.booleans())
def test_a_product_is_the_definition_however_arrays_lie(kernels, heads, m, k, n, swapped, is_scaled):
    """Each array may be a part of a wider one, token by token with all heads beside each other, and transposed."""

    def laid(rows, columns, swap, seed):
        rows, columns = (columns, rows) if swap else (rows, columns)
        array = drawn(rows, heads + 1, columns + 3, seed=seed)[:, :heads, 1 : 1 + columns].transpose(1, 0, 2)
        return array.swapaxes(1, 2) if swap else array

    left, right, result = laid(m, k, swapped[0], 1), laid(k, n, swapped[1], 2), laid(m, n, swapped[2], 3)
    before, part = result.base.copy(), result.copy()
    kernels.product(left, right, result, 0.5 if is_scaled else 1.0)
    close(result, left.astype("float64") @ right * (0.5 if is_scaled else 1.0))
    result[...] = part
    assert np.array_equal(result.base, before)


def test_an_array_of_a_tensors_memory_keeps_the_tensor():
    array = as_array(paddle.full([1000, 100], 7.0))
    gc.collect()
    others = [paddle.zeros([1000, 100]) for _ in range(20)]
    assert (array == 7).all(), len(others)


@pytest.mark.skipif(onednn.library() is None, reason="this paddle has no oneDNN of version 3")
def test_threads_that_share_shapes_do_not_share_memory():
    failures = []

    def compute(seed):
        x = drawn(64, 96, seed=seed)
        expected = F.gelu(paddle.to_tensor(x), approximate=True).numpy()
        for _ in range(200):
            if not np.allclose(onednn.gelu(paddle.to_tensor(x)).numpy(), expected, atol=1e-5):
                failures.append(seed)

    threads = [threading.Thread(target=compute, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_what_onednn_refuses_is_said():
    if onednn.library() is None:
        assert [numpy_kernels] == KERNELS
        return
    with pytest.raises(RuntimeError, match="memory_desc_create_with_strides ended with status"):
        onednn.Operator().of_shape(2, 3, strides=[-1, -5])
