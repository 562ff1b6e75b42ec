"""What an optimizer step needs besides paddle's AdamW: clipping, the schedule, and its state at another degree of
tensor parallelism."""

from pathlib import Path

import numpy as np
import paddle

from parallel import ALONE
from sharding import axis_of, local_part, whole_of_parts

OPTIMIZER_FILE = "optimizer.pdopt"


class GlobalNormClip(paddle.nn.ClipGradByGlobalNorm):
    """Clipping by the global norm (Pascanu et al. 2013) that remembers the norm before clipping, for the log.

    It reads gradients once, and writes them, in place, only where they have to shrink. ranks: parallel.Ranks among
    which parameters are divided, where they say so (is_distributed); the others count once.
    """

    last_norm = None

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
        if self.last_norm.place.is_cpu_place() and float(self.last_norm) <= self.clip_norm:
            return params_grads
        factor = self.clip_norm / paddle.clip(self.last_norm, min=self.clip_norm)
        # In place: a second set of gradients would take as much memory as the weights.
        return [
            (parameter, grad if grad is None else grad.multiply_(factor.astype(grad.dtype)))
            for parameter, grad in params_grads
        ]


def sum_of_squares(gradients):
    """Of all numbers of some tensors, [1] float32."""
    squares = [paddle._C_ops.squared_l2_norm(gradient).astype("float32").reshape([1]) for gradient in gradients]
    return paddle.add_n(squares) if squares else paddle.zeros([1])


def linear_factor(step, warmup_steps, total_steps, decay_ratio):
    """Factor of the peak learning rate at an optimizer step: linear from 0 to 1 over warmup_steps, then linear to
    decay_ratio at total_steps, constant after it."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - (1.0 - decay_ratio) * progress


def state_files(directory):
    """The files of an optimizer's state in a checkpoint, one of each tensor-parallel rank, in order."""
    whole = Path(directory) / OPTIMIZER_FILE
    return [whole] if whole.is_file() else sorted(Path(directory).glob("optimizer.tp*.pdopt"))


def state_at_another_degree(files, stored_names, parameters, ranks):
    """The optimizer's state of this rank, from that of the ranks of another degree.

    files: those of each rank. stored_names: {name of a weight: name of the parameter that its state is kept under} in
    them. parameters: this rank's, by name of the weight. Moments lie like their parameters; what is kept once for a
    parameter (powers of beta) and for all (the schedule) is the same on all ranks.
    """
    states = [paddle.load(str(path), return_numpy=True) for path in files]
    masters = [state.pop("master_weights", {}) for state in states]
    result = {name: value for name, value in states[0].items() if not isinstance(value, np.ndarray)}
    for weight, parameter in parameters.items():
        old = stored_names[weight]
        for key in states[0]:
            # Not by prefix: linear_1.w_0 begins linear_1.w_0_moment1_0 and is none of linear_11's.
            if key.startswith(f"{old}_"):
                parts = [state.pop(key) if state is not states[0] else state[key] for state in states]
                result[parameter.name + key[len(old) :]] = paddle.to_tensor(moved(weight, parts, parameter, ranks))
        if old in masters[0]:
            parts = [master[old] for master in masters]
            copies = result.setdefault("master_weights", {})
            copies[parameter.name] = paddle.to_tensor(moved(weight, parts, parameter, ranks))
    return result


def moved(weight, parts, parameter, ranks):
    """This rank's part of what other ranks keep of a weight."""
    if axis_of(weight) is None or parts[0].size == 1 != parameter.size:
        return parts[0]
    return np.ascontiguousarray(local_part(weight, whole_of_parts(weight, parts), ranks.rank, ranks.size))
