"""Adafactor (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235): an optimizer that keeps of a matrix's squared
gradients a mean for each row and each column, where Adam keeps two matrices."""

import paddle

from glm.parallel.ranks import ALONE

# The paper's: what is added to squared gradients, the largest root mean square of an update, and the exponent with
# which the decay rate of the means approaches 1.
EPSILON, LARGEST_UPDATE, DECAY = 1e-30, 1.0, 0.8
# Names of what is kept of a parameter.
STEPS, ROWS, COLUMNS, SQUARES = "steps", "rows", "columns", "squares"


class Adafactor(paddle.optimizer.Optimizer):
    """Algorithm 4 of the paper, with updates of learning_rate's size (its section 8 without the parameter's scale), as
    other trainers have it: learning rates are those of AdamW. No first moment; weight decay is AdamW's.

    axes: {name of a parameter: the axis along which it is divided among ranks.Ranks}, whose means are over all of it.
    grad_clip: optimization.GlobalNormClip. Other arguments as for AdamW. State of a matrix [n, m]: rows [n, 1] and
    columns [1, m]; of other parameters, their squares' means; and of each the number of steps, [1].
    """

    def __init__(
        self, learning_rate, parameters, *, weight_decay, decays, grad_clip, axes, ranks=ALONE, multi_precision=False
    ):
        super().__init__(learning_rate, parameters, None, grad_clip)
        self.decay, self.decays, self.axes, self.ranks = weight_decay, decays, axes, ranks
        self._multi_precision = multi_precision

    def clear_grad(self, set_to_zero=False):
        # As AdamW's here.
        super().clear_grad(set_to_zero)

    def _create_accumulators(self, block, parameters):
        for parameter in parameters:
            if self._multi_precision and parameter.dtype != paddle.float32:
                self._create_master_weight(parameter)
            for name, shape in state_shapes(parameter.shape).items():
                self._add_accumulator(name, parameter, dtype=paddle.float32, shape=list(shape))

    def _append_optimize_op(self, block, param_and_grad):
        if self._grad_clip.left_out:
            return
        parameter, gradient = param_and_grad
        rate = self._create_param_lr(param_and_grad)
        if self._grad_clip.keep is not None:
            rate = rate * self._grad_clip.keep
        weight = self._master_weights.get(parameter.name, parameter)
        update = self.update_of(parameter, gradient.astype("float32"))
        if self.decay and self.decays(parameter.name):
            weight.multiply_((1.0 - rate * self.decay).astype(weight.dtype))
        weight.subtract_((update * rate).astype(weight.dtype))
        if weight is not parameter:
            parameter.copy_(weight.astype(parameter.dtype), False)

    def update_of(self, parameter, gradient):
        """What is subtracted for a learning rate of 1, float32; takes the gradient into the means."""
        steps = self._get_accumulator(STEPS, parameter)
        steps.add_(paddle.ones_like(steps))
        fresh = paddle.pow(steps, -DECAY)
        squares = paddle.square(gradient) + EPSILON
        axis = self.axes.get(parameter.name)
        if gradient.ndim != 2:
            mean = self.averaged(SQUARES, parameter, squares, fresh)
            update = gradient * paddle.rsqrt(mean)
        else:
            by_rows = axis == 0
            rows = self.averaged(ROWS, parameter, self.mean(squares, 1, axis is not None and not by_rows), fresh)
            columns = self.averaged(COLUMNS, parameter, self.mean(squares, 0, by_rows), fresh)
            of_all = self.mean(rows, 0, by_rows)
            update = gradient * paddle.rsqrt(rows / of_all) * paddle.rsqrt(columns)
        size = paddle.sqrt(self.mean(paddle.square(update).reshape([-1, 1]), 0, axis is not None))
        return update / paddle.clip(size / LARGEST_UPDATE, min=1.0).reshape([1] * update.ndim)

    def mean(self, tensor, axis, of_ranks):
        """The mean along an axis, which is kept; of_ranks: over all ranks, which have parts along it."""
        mean = tensor.mean(axis, keepdim=True)
        return self.ranks.summed(mean) / self.ranks.size if of_ranks else mean

    def averaged(self, name, parameter, value, fresh):
        """The running mean of this name with a value taken into it, of which it has a share `fresh` then."""
        mean = self._get_accumulator(name, parameter)
        mean.copy_(mean + fresh * (value - mean), False)
        return mean


def state_shapes(shape):
    """{name: shape} of what is kept of a parameter."""
    if len(shape) == 2:
        return {STEPS: (1,), ROWS: (shape[0], 1), COLUMNS: (1, shape[1])}
    return {STEPS: (1,), SQUARES: tuple(shape)}
