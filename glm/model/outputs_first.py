"""Linear layers of a model that only decodes on CPU, their weights laid the way that products of few tokens read fast.

A step of decoding multiplies a token of each text or beam with all weights. For two to sixteen of them, MKL's code for
AVX2 reads a weight [in, out] slower than one that lies as [out, in]; its code for AVX-512 is faster so with two or
three alone, and slower from six on, so there weights stay as they are.
"""

import paddle

from glm.model.lora import TARGETS, places
from glm.ops import device
from glm.ops.processor import multiplies_with_avx512


class OutputsFirst(paddle.nn.Layer):
    """What a paddle.nn.Linear computes, with its weight as [out, in]."""

    def __init__(self, plain):
        super().__init__()
        # In memory of its own: without the second step, it may be a view of the other.
        self.register_buffer("weight", paddle.transpose(plain.weight.detach(), [1, 0]).contiguous())
        self.bias = plain.bias

    def forward(self, tokens):
        """tokens [..., in] → [..., out]."""
        return paddle.matmul(tokens, self.weight, transpose_y=True) + self.bias


def laid_for_decoding(model):
    """A modeling.GLMForConditionalGeneration, its plain linear layers laid as suits this processor. Those of adapters
    and of tensor parallelism, which have layers of their own, stay as they are."""
    if device.takes_gpu_branches() or multiplies_with_avx512():
        return model
    for part, name in places(model, TARGETS):
        layer = getattr(part, name)
        if type(layer) is paddle.nn.Linear:
            setattr(part, name, OutputsFirst(layer))
    return model
