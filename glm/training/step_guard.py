"""Steps whose gradients are not finite: left out, reported with their records, and not many in a row."""

import math

import paddle

from glm.errors import RunError


class StepGuard:
    """What GlobalNormClip finds of each optimizer step, kept until it is read; reading waits for the device.

    max_bad_steps: so many in a row end the run. interval: steps between readings. describe: step, list of whether each
    micro-batch's loss was finite → the records in question, in words. warn: called with a line for each bad step.
    last_good: → the last checkpoint at or before a step, in words.
    """

    def __init__(self, max_bad_steps, interval, describe, warn, last_good):
        self.max_bad_steps, self.interval = max_bad_steps, max(1, min(interval, max_bad_steps))
        self.describe, self.warn, self.last_good = describe, warn, last_good
        self.losses, self.steps = [], []
        self.in_a_row, self.bad_since_log = 0, 0

    def loss(self, loss):
        """Note a micro-batch's loss, a tensor; returns what counts of it: 0 where it is not finite."""
        finite = paddle.isfinite(loss)
        self.losses.append(finite)
        return paddle.where(finite, loss, paddle.zeros_like(loss))

    def step(self, number, norm, counted):
        """Note an optimizer step: its gradient norm (None where the optimizer did not run), and the loss counted for
        it. Returns what has to be taken off the counted loss again: that of bad steps. Raises RunError."""
        if norm is None:
            self.losses = []
            return 0.0
        finite = paddle.isfinite(norm).reshape([])
        self.steps.append((number, finite, self.losses))
        self.losses = []
        taken_off = paddle.where(finite, paddle.zeros_like(counted), counted)
        if len(self.steps) >= self.interval:
            self.read()
        return taken_off

    def read(self):
        """Report the bad ones among the steps noted since the last time. Raises RunError."""
        steps, self.steps = self.steps, []
        if not steps:
            return
        for (number, _, losses), good in zip(steps, paddle.stack([step[1] for step in steps]).tolist(), strict=True):
            if good:
                self.in_a_row = 0
                continue
            self.in_a_row += 1
            self.bad_since_log += 1
            records = self.describe(number, [bool(finite) for finite in losses])
            self.warn(f"step {number + 1} is left out, its loss or gradient is not finite; records: {records}")
            if self.in_a_row >= self.max_bad_steps:
                raise RunError(
                    f"{self.in_a_row} steps in a row had a loss or gradient that is not finite, the last one is step "
                    f"{number + 1}: {self.last_good(number + 1 - self.in_a_row)}; a lower --learning_rate may help, or "
                    "look at the records named above"
                )

    def mean_of_good(self, mean, steps):
        """A mean over so many steps since the last time, bad ones of which counted as 0, as one over the good ones; NaN
        if there were none."""
        self.read()
        bad, self.bad_since_log = self.bad_since_log, 0
        return mean if not bad else mean * steps / (steps - bad) if steps > bad else math.nan
