"""The gradient of word embeddings that a model reads twice: as rows at its input, and whole as its head, on CPU.

Each reading alone would give a gradient of the whole table, and the rows', which is zero but for the batch's pieces,
would be filled, read and added with the others: three passes over a model's largest weight.
"""

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from glm.ops import device


class TiedGradient:
    """Of one forward and backward pass. of_head: the gradient that the head found, [vocab, hidden], which becomes that
    of both: gradients of hidden states come through the head, so it is there before those of rows."""

    def __init__(self):
        self.of_head = None

    def rows(self, weight, ids):
        """Rows of weight [vocab, hidden] at ids [...], [..., hidden]."""
        return Rows.apply(weight, ids, self)


class Rows(PyLayer):
    """TiedGradient.rows(); its backward pass gives the gradient of both readings."""

    @staticmethod
    def forward(ctx, weight, ids, tied):
        ctx.ids, ctx.tied = ids, tied
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient):
        whole, ctx.tied.of_head = ctx.tied.of_head, None
        return paddle.index_add_(whole, ctx.ids.flatten(), 0, gradient.reshape([-1, gradient.shape[-1]]))


def tied_gradient(weight):
    """The TiedGradient of a pass over word embeddings; None where each reading gives its own: on GPUs, where a pass
    over memory costs little, and where no gradient is wanted."""
    if device.takes_gpu_branches() or weight.stop_gradient or not paddle.is_grad_enabled():
        return None
    return TiedGradient()
