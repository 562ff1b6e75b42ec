"""What training on CPU takes from oneDNN, which paddle's packages for x86 bring along: products of arrays however they
lie, element-wise operators and normalisations, and their gradients, on all threads. Paddle's own run on one thread,
some of them many times slower, and its switches for oneDNN mean programs and not training.

Called through oneDNN's C interface, https://uxlfoundation.github.io/oneDNN/, whose numbers below are those of its
version 3. All tensors are on CPU, float32, and laid out as their shapes say.
"""

import ctypes
import threading
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache, lru_cache, wraps
from pathlib import Path

import paddle

# dnnl_types.h: kinds of propagation, algorithms, types of data, flags of a normalisation, and numbers of arguments.
TRAINING, BACKWARD = 64, 128
LINEAR, GELU_TANH, ADD, MULTIPLY, SOFTMAX = 0x26, 0x2B, 0x1FFF0, 0x1FFF1, 0x30000
FLOAT32, UINT8 = 3, 6
SCALE_AND_SHIFT = 2 | 4
SOURCE, SECOND_SOURCE, RESULT, WEIGHTS, MEAN, VARIANCE, SCALE, SHIFT = 1, 2, 17, 33, 49, 50, 51, 52
OF_SOURCE, OF_RESULT, OF_SCALE, OF_SHIFT = 129, 145, 255, 256
CPU, IN_ORDER, VERSION = 1, 1, 3
ZERO = c_float(0)
# Operators that a thread keeps: those of some training steps, whose shapes are new each time.
KEPT = 256


class Argument(ctypes.Structure):
    """dnnl_exec_arg_t."""

    _fields_ = (("number", c_int), ("memory", c_void_p))


@cache
def library():
    """oneDNN as paddle has loaded it, of the version that is called here; None where there is none."""
    for path in sorted(Path(paddle.__file__).with_name("libs").glob("*dnnl*")):
        try:
            found = ctypes.CDLL(str(path))
            found.dnnl_version.restype = ctypes.POINTER(c_int)
            if found.dnnl_version()[0] == VERSION:
                return found
        except (OSError, AttributeError):
            continue
    return None


def call(function, *arguments):
    """Call a function of oneDNN's that gives a status. Raises RuntimeError."""
    status = getattr(library(), f"dnnl_{function}")(*arguments)
    if status:
        raise RuntimeError(f"oneDNN's {function} ended with status {status}")


@cache
def engine_and_stream():
    """The engine of this processor, and the stream that all operators run in."""
    engine, stream = c_void_p(), c_void_p()
    call("engine_create", byref(engine), CPU, c_size_t(0))
    call("stream_create", byref(stream), engine, IN_ORDER)
    return engine, stream


class Operator:
    """An operator for certain shapes. It owns all that is made for it."""

    def __init__(self):
        self.library, self.owned = library(), []
        self.engine, self.stream = engine_and_stream()
        self.primitive, self.memories, self.arguments = None, (), None

    def __del__(self):
        for kind, handle in reversed(self.owned):
            getattr(self.library, f"dnnl_{kind}_destroy")(handle)

    def made(self, kind, function, *arguments):
        """What a function of oneDNN's makes of a kind."""
        handle = c_void_p()
        call(function, byref(handle), *arguments)
        self.owned.append((kind, handle))
        return handle

    def of_shape(self, *shape, dtype=FLOAT32, strides=None):
        """The description of numbers that lie row after row, or as many numbers apart on each axis as `strides` say."""
        if strides is None:
            strides = [1]
            for size in reversed(shape[1:]):
                strides.insert(0, strides[0] * size)
        sizes, create = c_int64 * len(shape), "memory_desc_create_with_strides"
        return self.made("memory_desc", create, len(shape), sizes(*shape), dtype, sizes(*strides))

    def times(self, factor):
        """Attributes that multiply what an operator gives by a factor."""
        steps = self.made("post_ops", "post_ops_create")
        call("post_ops_append_eltwise", steps, LINEAR, c_float(factor), ZERO)
        attributes = self.made("primitive_attr", "primitive_attr_create")
        call("primitive_attr_set_post_ops", attributes, steps)
        return attributes

    def described(self, name, *arguments):
        """The description of an operator of a name."""
        return self.made("primitive_desc", f"{name}_primitive_desc_create", self.engine, *arguments)

    def ready(self, description, *arguments):
        """The operator itself, of that description; arguments: the number and the description of each."""
        self.primitive = self.made("primitive", "primitive_create", description)
        nowhere = c_void_p()
        self.memories = [self.made("memory", "memory_create", what, self.engine, nowhere) for _, what in arguments]
        numbered = [(number, memory) for (number, _), memory in zip(arguments, self.memories, strict=True)]
        self.arguments = (Argument * len(numbered))(*numbered)
        return self

    def run(self, *addresses):
        """Compute, with each argument at an address."""
        for memory, address in zip(self.memories, addresses, strict=True):
            call("memory_set_data_handle", memory, c_void_p(address))
        call("primitive_execute", self.primitive, self.stream, len(self.memories), self.arguments)
        call("stream_wait", self.stream)


def kept(make):
    """Have make(*key) → Operator give what it has made for a key before. Each thread has its own: an operator that
    runs knows its memory."""
    own = threading.local()

    @wraps(make)
    def found(*key):
        if not hasattr(own, "operators"):
            own.operators = lru_cache(KEPT)(make)
        return own.operators(*key)

    return found


def product(left, right, result, scale=1.0):
    """left @ right * scale into result: arrays [heads, m, k], [heads, k, n] and [heads, m, n], however they lie."""
    # An axis of one number has a stride of no meaning, by which oneDNN 3.6 takes a column for a row.
    arrays = *(array.copy() if 1 in array.shape else array for array in (left, right)), result
    operator = product_operator(scale, *((array.shape, array.strides) for array in arrays))
    operator.run(*(array.ctypes.data for array in arrays))


@kept
def product_operator(scale, *laid_out):
    operator = Operator()
    left, right, result = (
        operator.of_shape(*shape, strides=[stride // 4 for stride in strides]) for shape, strides in laid_out
    )
    attributes = None if scale == 1.0 else operator.times(scale)
    described = operator.described("matmul", left, right, None, result, attributes)
    return operator.ready(described, (SOURCE, left), (WEIGHTS, right), (RESULT, result))


def scale_(tensor, factor):
    """Multiply any tensor by a factor, a tensor of one number, in place."""
    scale_operator(tensor.size).run(tensor.data_ptr(), factor.data_ptr(), tensor.data_ptr())


@kept
def scale_operator(size):
    operator = Operator()
    flat, number = operator.of_shape(size), operator.of_shape(1)
    described = operator.described("binary", MULTIPLY, flat, number, flat, None)
    return operator.ready(described, (SOURCE, flat), (SECOND_SOURCE, number), (RESULT, flat))


def gelu(tensor):
    """The tanh form of GELU (Hendrycks and Gimpel 2016) of any tensor."""
    result = paddle.empty_like(tensor)
    gelu_operator(tensor.size).run(tensor.data_ptr(), result.data_ptr())
    return result


@kept
def gelu_operator(size):
    operator = Operator()
    flat = operator.of_shape(size)
    return operator.ready(gelu_described(operator, flat), (SOURCE, flat), (RESULT, flat))


def gelu_described(operator, flat):
    return operator.described("eltwise_forward", TRAINING, GELU_TANH, flat, flat, ZERO, ZERO, None)


def gelu_gradient(tensor, gradient):
    """The gradient of gelu()'s input, given that of its result."""
    result = paddle.empty_like(tensor)
    gelu_gradient_operator(tensor.size).run(tensor.data_ptr(), gradient.data_ptr(), result.data_ptr())
    return result


@kept
def gelu_gradient_operator(size):
    operator = Operator()
    flat = operator.of_shape(size)
    forward = gelu_described(operator, flat)
    described = operator.described("eltwise_backward", GELU_TANH, flat, flat, flat, ZERO, ZERO, forward, None)
    return operator.ready(described, (SOURCE, flat), (OF_RESULT, flat), (OF_SOURCE, flat))


def softmax_(scores):
    """Softmax over the last axis, in place. Returns the tensor."""
    softmax_operator(*rows_and_width(scores)).run(scores.data_ptr(), scores.data_ptr())
    return scores


@kept
def softmax_operator(*shape):
    operator = Operator()
    rows = operator.of_shape(*shape)
    return operator.ready(softmax_described(operator, rows), (SOURCE, rows), (RESULT, rows))


def softmax_described(operator, rows):
    return operator.described("softmax_forward", TRAINING, SOFTMAX, rows, rows, 1, None)


def softmax_gradient_(probabilities, gradient):
    """The gradient of softmax_()'s input, in place of that of its result. Returns it."""
    operator = softmax_gradient_operator(*rows_and_width(probabilities))
    operator.run(probabilities.data_ptr(), gradient.data_ptr(), gradient.data_ptr())
    return gradient


@kept
def softmax_gradient_operator(*shape):
    operator = Operator()
    rows = operator.of_shape(*shape)
    forward = softmax_described(operator, rows)
    described = operator.described("softmax_backward", SOFTMAX, rows, rows, rows, 1, forward, None)
    return operator.ready(described, (RESULT, rows), (OF_RESULT, rows), (OF_SOURCE, rows))


def rows_and_width(tensor):
    """The shape of a tensor as rows along its last axis."""
    return tensor.size // tensor.shape[-1], tensor.shape[-1]


def times_kept(tensor, kept_numbers, scale, result):
    """tensor * kept_numbers * scale into `result`, which may be the tensor; kept_numbers: bool array of as many."""
    operator = times_kept_operator(tensor.size, scale)
    operator.run(tensor.data_ptr(), kept_numbers.ctypes.data, result.data_ptr())
    return result


@kept
def times_kept_operator(size, scale):
    operator = Operator()
    flat, bools = operator.of_shape(size), operator.of_shape(size, dtype=UINT8)
    described = operator.described("binary", MULTIPLY, flat, bools, flat, operator.times(scale))
    return operator.ready(described, (SOURCE, flat), (SECOND_SOURCE, bools), (RESULT, flat))


def add_bias_(tokens, bias):
    """tokens [tokens, n] + bias [n], in place. Returns the tensor."""
    add_bias_operator(*tokens.shape).run(tokens.data_ptr(), bias.data_ptr(), tokens.data_ptr())
    return tokens


@kept
def add_bias_operator(count, width):
    operator = Operator()
    rows, row = operator.of_shape(count, width), operator.of_shape(1, width)
    described = operator.described("binary", ADD, rows, row, rows, None)
    return operator.ready(described, (SOURCE, rows), (SECOND_SOURCE, row), (RESULT, rows))


def layer_norm(tokens, weight, bias, epsilon):
    """Layer normalisation (Ba et al. 2016) of [tokens, hidden], and the mean and the variance [tokens] of each."""
    result, mean, variance = paddle.empty_like(tokens), *(paddle.empty(tokens.shape[:1]) for _ in range(2))
    tensors = tokens, result, mean, variance, weight, bias
    layer_norm_operator(*tokens.shape, epsilon).run(*(tensor.data_ptr() for tensor in tensors))
    return result, mean, variance


@kept
def layer_norm_operator(*shape_and_epsilon):
    operator = Operator()
    described, rows, row, numbers = layer_norm_described(operator, *shape_and_epsilon)
    return operator.ready(
        described,
        *((SOURCE, rows), (RESULT, rows), (MEAN, numbers), (VARIANCE, numbers), (SCALE, row), (SHIFT, row)),
    )


def layer_norm_described(operator, count, hidden, epsilon):
    """The description of a layer normalisation, of its tokens, of one hidden state, and of a number for each token."""
    rows, row, numbers = operator.of_shape(count, hidden), operator.of_shape(hidden), operator.of_shape(count)
    how = numbers, c_float(epsilon), SCALE_AND_SHIFT, None
    return operator.described("layer_normalization_forward", TRAINING, rows, rows, *how), rows, row, numbers


def layer_norm_gradients(tokens, weight, bias, mean, variance, gradient, epsilon):
    """The gradients of layer_norm()'s tokens, weight and bias, given that of its result."""
    results = paddle.empty_like(tokens), paddle.empty_like(weight), paddle.empty_like(bias)
    tensors = tokens, gradient, mean, variance, weight, bias, *results
    layer_norm_gradients_operator(*tokens.shape, epsilon).run(*(tensor.data_ptr() for tensor in tensors))
    return results


@kept
def layer_norm_gradients_operator(count, hidden, epsilon):
    operator = Operator()
    forward, rows, row, numbers = layer_norm_described(operator, count, hidden, epsilon)
    how = numbers, c_float(epsilon), SCALE_AND_SHIFT, forward, None
    described = operator.described("layer_normalization_backward", BACKWARD, rows, rows, rows, *how)
    read = (SOURCE, rows), (OF_RESULT, rows), (MEAN, numbers), (VARIANCE, numbers), (SCALE, row), (SHIFT, row)
    return operator.ready(described, *read, (OF_SOURCE, rows), (OF_SCALE, row), (OF_SHIFT, row))
