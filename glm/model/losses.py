"""Cross entropy of hidden states against a tied head, with label smoothing, without ever holding all logits."""

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from glm.ops import device
from glm.ops.dtypes import of_dtype
from glm.parallel.ranks import ALONE

# Target tokens whose logits are held at a time: 200 MB at a vocabulary of 50048.
CHUNK = 1024


def cross_entropy(hidden, weight, labels, label_smoothing=0.0, chunk=CHUNK, ranks=ALONE, scale=1.0, tied=None):
    """Sum over tokens of the cross entropy against a target that gives `label_smoothing` to all pieces alike (Szegedy
    et al. 2016, https://arxiv.org/abs/1512.00567, section 7), times `scale`.

    hidden: [tokens, hidden]; weight: [vocab, hidden], or of tensor-parallel `ranks` this one's rows of it; labels:
    [tokens] int64. tied: the TiedGradient that gets the weight's gradient, in place of the weight; None for none.
    """
    wanted = [paddle.is_grad_enabled() and not tensor.stop_gradient for tensor in (hidden, weight)]
    weight = weight if tied is None else weight.detach()
    return HeadLoss.apply(hidden, weight, labels, label_smoothing, chunk, ranks, scale, tied, wanted)


class HeadLoss(PyLayer):
    """cross_entropy(). Gradients, where wanted, are computed beside the loss: a chunk's logits are needed once."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, label_smoothing, chunk, ranks, scale, tied, wanted):
        total, of_hidden, of_weight, ctx.tied = 0.0, [], None, tied
        for start in range(0, hidden.shape[0], chunk):
            part, goal = hidden[start : start + chunk], labels[start : start + chunk]
            logits = of_dtype(paddle.matmul(part, weight, transpose_y=True), paddle.float32)
            loss, probabilities, goal = summed_loss(logits, goal.unsqueeze(1), label_smoothing, ranks)
            total = total + loss
            if not any(wanted):
                continue
            of_logits = of_dtype(gradient_of_loss(probabilities, goal, label_smoothing, ranks), weight.dtype)
            if wanted[0]:
                of_part = ranks.summed(paddle.matmul(of_logits, weight)) * scale
                of_hidden.append(of_dtype(of_part, hidden.dtype))
            if wanted[1]:
                # The smaller factor is scaled, not the product, which is as large as the weight.
                product = of_dtype(paddle.matmul(of_logits, part * scale, transpose_x=True), weight.dtype)
                of_weight = product if of_weight is None else of_weight.add_(product)
        ctx.of_hidden, ctx.of_weight = paddle.concat(of_hidden) if of_hidden else None, of_weight
        return total * scale

    @staticmethod
    def backward(ctx, gradient):
        of_hidden, of_weight = (times(kept, gradient) for kept in (ctx.of_hidden, ctx.of_weight))
        if ctx.tied is None:
            return of_hidden, of_weight
        ctx.tied.of_head = of_weight
        return of_hidden, None


def times(kept, gradient):
    """What forward() kept (or None), in place, times the gradient of the loss. That is 1 unless a scaler of mixed
    precision, or whoever adds losses up, has made it another: on CPU, where asking costs nothing, nothing is done."""
    if kept is None or (not device.takes_gpu_branches() and float(gradient) == 1.0):
        return kept
    return kept.multiply_(of_dtype(gradient, kept.dtype))


class Goal(NamedTuple):
    """Labels as a rank sees them. places: [tokens, 1] int64, in its part of the vocabulary; known: [tokens, 1] float32,
    1 where the label is in that part, None where there is but one."""

    places: paddle.Tensor
    known: paddle.Tensor | None

    @classmethod
    def of(cls, labels, width, ranks):
        """The Goal for labels [tokens, 1] and a rank's `width` pieces."""
        if ranks.size == 1:
            return cls(labels, None)
        places = labels - ranks.rank * width
        known = ((places >= 0) & (places < width)).astype("float32")
        return cls(paddle.clip(places, 0, width - 1), known)

    def only(self, values):
        """values [tokens, 1], 0 where the label is another rank's."""
        return values if self.known is None else values * self.known


def summed_loss(logits, labels, label_smoothing, ranks=ALONE):
    """(the loss summed over tokens, the probabilities, the Goal); logits [tokens, a rank's pieces] float32, labels
    [tokens, 1].

    -log p(y) = logsumexp - logit(y), and its mean over all pieces is logsumexp - mean(logits): no second [tokens,
    vocab] tensor is needed.
    """
    probabilities, goal = F.softmax(logits), Goal.of(labels, logits.shape[1], ranks)
    # From the largest probability p = exp(z) / sum: paddle.logsumexp takes seven times as long as softmax.
    normalizer = logits.max(axis=1, keepdim=True) - paddle.log(probabilities.max(axis=1, keepdim=True))
    picked = goal.only(paddle.take_along_axis(logits, goal.places, axis=1))
    if ranks.size > 1:
        whole = logsumexp_over_ranks(normalizer, ranks)
        probabilities = probabilities * paddle.exp(normalizer - whole)
        normalizer, picked = whole, ranks.summed(picked)
    losses = normalizer - picked
    if label_smoothing:
        mean = ranks.summed(logits.sum(axis=1, keepdim=True)) / (logits.shape[1] * ranks.size)
        losses = losses + label_smoothing * (picked - mean)
    return losses.sum(), probabilities, goal


def logsumexp_over_ranks(normalizer, ranks):
    """log of the sum over ranks of exp(normalizer), [tokens, 1]."""
    everyones = ranks.gathered(normalizer)
    largest = everyones.max(axis=0)
    return largest + paddle.log(paddle.exp(everyones - largest).sum(axis=0))


def gradient_of_loss(probabilities, goal, label_smoothing, ranks=ALONE):
    """The gradient of summed_loss() with respect to a rank's logits: their softmax less the target."""
    if label_smoothing:
        probabilities = probabilities - label_smoothing / (probabilities.shape[1] * ranks.size)
    rest = goal.only(paddle.full(goal.places.shape, label_smoothing - 1.0, dtype=probabilities.dtype))
    return paddle.put_along_axis(probabilities, goal.places, rest, axis=1, reduce="add")
