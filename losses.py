"""Cross entropy of hidden states against a tied head, with label smoothing, without ever holding all logits."""

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

# Target tokens whose logits are held at a time: 200 MB at a vocabulary of 50048.
CHUNK = 1024


def cross_entropy(hidden, weight, labels, label_smoothing=0.0, chunk=CHUNK):
    """Sum over tokens of the cross entropy against a target that gives `label_smoothing` to all pieces alike (Szegedy
    et al. 2016, https://arxiv.org/abs/1512.00567, section 7).

    hidden: [tokens, hidden]; weight: [vocab, hidden]; labels: [tokens] int64.
    """
    return HeadLoss.apply(hidden, weight, labels, label_smoothing, chunk, paddle.is_grad_enabled())


class HeadLoss(PyLayer):
    """cross_entropy(). Gradients, where wanted, are computed beside the loss: a chunk's logits are needed once."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, label_smoothing, chunk, wanted):
        total, of_hidden, of_weight = 0.0, [], None
        for start in range(0, hidden.shape[0], chunk):
            part, goal = hidden[start : start + chunk], labels[start : start + chunk]
            logits = of_dtype(paddle.matmul(part, weight, transpose_y=True), paddle.float32)
            probabilities, goal = F.softmax(logits), goal.unsqueeze(1)
            total = total + summed_loss(logits, probabilities, goal, label_smoothing)
            if not wanted:
                continue
            of_logits = gradient_of_loss(probabilities, goal, label_smoothing)
            if not hidden.stop_gradient:
                of_hidden.append(of_dtype(paddle.matmul(of_logits, weight), hidden.dtype))
            if not weight.stop_gradient:
                product = of_dtype(paddle.matmul(of_logits, part, transpose_x=True), weight.dtype)
                of_weight = product if of_weight is None else of_weight.add_(product)
        ctx.of_hidden, ctx.of_weight = paddle.concat(of_hidden) if of_hidden else None, of_weight
        return total

    @staticmethod
    def backward(ctx, gradient):
        return tuple(
            None if kept is None else kept.multiply_(of_dtype(gradient, kept.dtype))
            for kept in (ctx.of_hidden, ctx.of_weight)
        )


def of_dtype(tensor, dtype):
    """The tensor in a dtype; itself if it has it, where astype() would copy it."""
    return tensor if tensor.dtype == dtype else tensor.astype(dtype)


def summed_loss(logits, probabilities, labels, label_smoothing):
    """The loss summed over tokens; logits and their softmax [tokens, vocab] float32, labels [tokens, 1].

    -log p(y) = logsumexp - logit(y), and its mean over all pieces is logsumexp - mean(logits): no second [tokens,
    vocab] tensor is needed.
    """
    # From the largest probability p = exp(z) / sum: paddle.logsumexp takes seven times as long as softmax.
    largest = paddle.log(probabilities.max(axis=1, keepdim=True))
    picked = paddle.take_along_axis(logits, labels, axis=1)
    losses = logits.max(axis=1, keepdim=True) - largest - picked
    if label_smoothing:
        losses = losses + label_smoothing * (picked - logits.mean(axis=1, keepdim=True))
    return losses.sum()


def gradient_of_loss(probabilities, labels, label_smoothing):
    """The gradient of summed_loss() with respect to the logits: their softmax less the target."""
    if label_smoothing:
        probabilities = probabilities - label_smoothing / probabilities.shape[1]
    rest = paddle.full(labels.shape, label_smoothing - 1.0, dtype=probabilities.dtype)
    return paddle.put_along_axis(probabilities, labels, rest, axis=1, reduce="add")
