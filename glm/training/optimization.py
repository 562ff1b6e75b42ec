"""The optimizer of a run: paddle's AdamW or Adafactor, clipping, and the schedule."""

import math

import numpy as np
import paddle

from glm.ops import device
from glm.ops.cpu_kernels import kernels
from glm.ops.dtypes import of_dtype
from glm.parallel.ranks import ALONE
from glm.parallel.sharding import axis_of
from glm.training.adafactor import Adafactor, state_shapes


def optimizer_of(model, args, rate, ranks):
    """The optimizer that training arguments ask for, of a model's parameters; rate: learning rate or its schedule."""
    named = list(model.named_parameters())
    decaying = {value.name for name, value in named if "bias" not in name and "norm" not in name}
    clip = GlobalNormClip(args.max_grad_norm if args.max_grad_norm > 0 else math.inf, ranks)
    half = args.fp16_opt_level == "O2"
    if args.optim == "adafactor":
        axes = {value.name: axis_of(name) for name, value in named if ranks.size > 1 and axis_of(name) is not None}
        return Adafactor(
            rate,
            model.parameters(),
            weight_decay=args.weight_decay,
            decays=decaying.__contains__,
            grad_clip=clip,
            axes=axes,
            ranks=ranks,
            multi_precision=half,
        )
    return AdamW(
        rate,
        beta1=args.adam_beta1,
        beta2=args.adam_beta2,
        epsilon=args.adam_epsilon,
        parameters=model.parameters(),
        weight_decay=args.weight_decay,
        apply_decay_param_fun=decaying.__contains__,
        grad_clip=clip,
        multi_precision=half,
    )


def numbers_kept(name, shapes):
    """How many numbers an optimizer, --optim `name`, keeps of parameters of these shapes."""
    if name == "adafactor":
        return sum(int(np.prod(kept)) for shape in shapes for kept in state_shapes(shape).values())
    return 2 * sum(int(np.prod(shape)) for shape in shapes)


class AdamW(paddle.optimizer.AdamW):
    """paddle's AdamW, which leaves out the steps that its GlobalNormClip leaves out, and gives the memory of gradients
    back after a step."""

    def clear_grad(self, set_to_zero=False):
        # Zeros would be written, and then read and added to.
        super().clear_grad(set_to_zero)

    def _get_auxiliary_var(self, key):
        # What paddle does with found_inf suits CPU: it has the host wait for the device.
        found = super()._get_auxiliary_var(key)
        return found or self._grad_clip.left_out if key == "found_inf" else found

    def _create_param_lr(self, param_and_grad):
        rate = super()._create_param_lr(param_and_grad)
        return rate if self._grad_clip.keep is None else rate * self._grad_clip.keep


class GlobalNormClip(paddle.nn.ClipGradByGlobalNorm):
    """Clipping by the global norm (Pascanu et al. 2013) that remembers the norm before clipping, and says whether the
    step is to be left out because it is not finite.

    It reads gradients once, and writes them, in place, only where they have to shrink. On CPU, a step left out changes
    nothing. On a GPU, which the host does not wait for, the learning rate is zero, so the weights stay, and AdamW's
    moments see a gradient of zero.

    clip_norm: infinity clips nothing. ranks: ranks.Ranks among which parameters are divided, where they say so
    (is_distributed); the others count once. last_norm: [1], or None. left_out: whether to leave the step out; keep: on
    a GPU a tensor [1] instead, 0 to leave it out and 1 to take it.
    """

    last_norm = keep = None
    left_out = False

    def __init__(self, clip_norm, ranks=ALONE):
        super().__init__(clip_norm)
        self.ranks = ranks

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads):
        with_gradient = [(parameter, grad) for parameter, grad in params_grads if grad is not None]
        if not with_gradient:
            return params_grads
        divided = sum_of_squares([grad for parameter, grad in with_gradient if parameter.is_distributed])
        common = sum_of_squares([grad for parameter, grad in with_gradient if not parameter.is_distributed])
        self.last_norm = paddle.sqrt(common + self.ranks.summed(divided))
        if device.takes_gpu_branches():
            return self.unless_bad(params_grads)
        norm = float(self.last_norm)
        self.left_out = not math.isfinite(norm)
        return scaled(params_grads, self.factor()) if norm > self.clip_norm else params_grads

    def unless_bad(self, params_grads):
        """Clipped gradients, or zeros, as the device finds."""
        finite = paddle.isfinite(self.last_norm)
        self.keep = finite.astype("float32")
        return zeroed_unless(
            finite, params_grads if math.isinf(self.clip_norm) else scaled(params_grads, self.factor())
        )

    def factor(self):
        """What gradients are multiplied by."""
        return self.clip_norm / paddle.clip(self.last_norm, min=self.clip_norm)


def scaled(params_grads, factor):
    """The gradients times a factor, in place: a second set of them would take as much memory as the weights."""
    for _, grad in params_grads:
        if grad is None:
            continue
        if device.takes_gpu_branches():
            grad.multiply_(factor.astype(grad.dtype))
        else:
            kernels().scale_(grad, factor)
    return params_grads


def zeroed_unless(good, params_grads):
    """The gradients, in place of which there are zeros unless `good`, a tensor [1] of bool. Not by a product: zero
    times infinity is no number."""
    for _, grad in params_grads:
        if grad is not None:
            grad.copy_(paddle.where(good, grad, paddle.zeros([1], grad.dtype)), False)
    return params_grads


def sum_of_squares(gradients):
    """Of all numbers of some tensors, [1] float32. Not in half precision: their sum is soon more than float16 holds."""
    whole = (of_dtype(gradient, paddle.float32) for gradient in gradients)
    squares = [paddle._C_ops.squared_l2_norm(gradient).reshape([1]) for gradient in whole]
    return paddle.add_n(squares) if squares else paddle.zeros([1])


def linear_factor(step, warmup_steps, total_steps, decay_ratio):
    """Factor of the peak learning rate at an optimizer step: linear from 0 to 1 over warmup_steps, then linear to
    decay_ratio at total_steps, constant after it."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - (1.0 - decay_ratio) * progress
