"""Paddle without views of memory, for the operators of a model on CPU."""

from contextlib import contextmanager

import paddle

from glm.ops import device

FLAG = "FLAGS_use_stride_kernel"


@contextmanager
def without_views():
    """While this lasts, transposing moves memory at once instead of giving a view. On GPU, nothing changes.

    On CPU every operator that gets a view copies it first, element by element: 60 times slower than transposing. All
    tensors that enter have to be laid out as their shapes say (`contiguous()`), or operators would misread them. Not
    for a whole program: without views, assigning to x[row, list] no longer changes x, and paddlenlp's generate() does.
    """
    before = paddle.get_flags(FLAG)
    paddle.set_flags({FLAG: before[FLAG] and device.takes_gpu_branches()})
    try:
        yield
    finally:
        paddle.set_flags(before)
