"""Half precision on CPU, for which paddle has few kernels there: stand-ins that compute in float32 and round what they
give, as a GPU's kernels do, so that the code which users run in half precision on a GPU is run."""

import sys

import paddle
from paddle import _C_ops

HALVES = (paddle.float16, paddle.bfloat16)
OPERATORS = """
    add add_n addmm concat divide dropout embedding gather gelu index_select layer_norm linear linear_v2 matmul max
    multiply pow put_along_axis reduce_as rsqrt scale scatter shape slice softmax split split_with_num squared_l2_norm
    subtract sum tile triu where
"""
IN_PLACE = "add_ copy_ multiply_ scale_ subtract_"
METHODS = "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __gt__ __lt__"


def install(monkeypatch):
    """Have half precision computed on CPU while a test lasts."""
    replaced = {}
    for name in [*OPERATORS.split(), *IN_PLACE.split(), "adamw_"]:
        real = getattr(_C_ops, name, None)
        if real is not None:
            wrap = adamw if name == "adamw_" else in_place if name in IN_PLACE.split() else rounded
            replaced[real] = wrap(real)
    # Some of paddle's functions are operators themselves.
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "paddle"]:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if callable(value) and type(value).__name__ == "builtin_function_or_method" and value in replaced:
                monkeypatch.setattr(module, name, replaced[value])
    for name in METHODS.split():
        monkeypatch.setattr(paddle.Tensor, name, rounded(getattr(paddle.Tensor, name)))
    for name, of in (("add_", "__add__"), ("subtract_", "__sub__"), ("multiply_", "__mul__")):
        real = getattr(paddle.Tensor, name)
        monkeypatch.setattr(paddle.Tensor, name, in_place_by(real, getattr(paddle.Tensor, of)))


def is_half(value):
    return isinstance(value, paddle.Tensor) and value.dtype in HALVES


def flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


def each(value, change):
    """A value, or those of a list or tuple, with every tensor changed."""
    if isinstance(value, (list, tuple)):
        return type(value)(each(item, change) for item in value)
    return change(value) if isinstance(value, paddle.Tensor) else value


def rounded(real):
    """An operator that computes halves in float32, and gives what is float32 then in their dtype. As a GPU's, it takes
    no halves beside float32."""

    def operator(*arguments, **named):
        half = next((value for value in flat([*arguments, *named.values()]) if is_half(value)), None)
        if half is None:
            return real(*arguments, **named)

        beside = [value for value in flat([*arguments, *named.values()]) if isinstance(value, paddle.Tensor)]
        assert paddle.float32 not in {value.dtype for value in beside}, f"{real}: halves beside float32"

        def widened(value):
            return value.astype("float32") if is_half(value) else value

        found = real(*each(arguments, widened), **{name: each(value, widened) for name, value in named.items()})
        return each(found, lambda value: value.astype(half.dtype) if value.dtype == paddle.float32 else value)

    return operator


def in_place(real):
    """As rounded(), of an operator that changes its first argument."""
    compute = rounded(real)

    def operator(tensor, *arguments, **named):
        if not is_half(tensor):
            return real(tensor, *arguments, **named)
        tensor.copy_(compute(tensor, *arguments, **named), False)
        return tensor

    return operator


def in_place_by(real, compute):
    """A method that changes its tensor to what compute() gives."""

    def method(tensor, other, *arguments):
        if not is_half(tensor):
            return real(tensor, other, *arguments)
        tensor.copy_(compute(tensor, other), False)
        return tensor

    return method


def adamw(real):
    """AdamW's operator: of a half parameter, its float32 master weight is what is updated, and rounded into it."""

    def operator(parameter, gradient, *arguments):
        if not is_half(parameter):
            return real(parameter, gradient, *arguments)
        wide = [
            value
            for value in arguments
            if isinstance(value, paddle.Tensor) and value.shape == parameter.shape and value.dtype == paddle.float32
        ]
        master = wide[-1]  # after the moments
        assert len(wide) >= 3
        arguments = [None if value is master else value for value in arguments]
        found = real(master, gradient.astype("float32"), *arguments)
        parameter.copy_(master.astype(parameter.dtype), False)
        return found

    return operator
