"""Parts of the prompts, each answered by a process of its own: --part, or a rank of paddle.distributed.launch. What is
shared out are batches, which are the same however many parts there are, and so are the texts and scores to the last
digit. Parts exchange nothing: each keeps its answers beside the output file, on a disk that all of them see."""

import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from glm.errors import UserError


@dataclass(frozen=True)
class Part:
    """One of so many parts; numbers are from 0."""

    number: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text):
        """The Part that "2/4" means. Raises UserError."""
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise UserError(f"--part {text}: write which part of how many, as in 1/4, the first of four")
        return cls(number - 1, count)

    def has(self, window, batch):
        """Whether a batch of a window belongs to it; each belongs to one."""
        return (window + batch) % self.count == self.number

    def siblings(self):
        """All parts, itself among them, in order."""
        return [Part(number, self.count) for number in range(self.count)]

    def __str__(self):
        return f"{self.number + 1}/{self.count}"


WHOLE = Part()


def launched(degree=1):
    """(Part of this process, whether it writes) if paddle.distributed.launch has started it; otherwise (WHOLE, True).

    degree: processes that a model is divided among, which come one after another; they have the same part, and the
    first of them writes. Raises UserError unless there are a multiple of them.
    """
    count, rank = int(os.environ.get("PADDLE_TRAINERS_NUM", "1")), int(os.environ.get("PADDLE_TRAINER_ID", "0"))
    if count % degree:
        launch = f"python -m paddle.distributed.launch --nproc_per_node {degree}{backend()}"
        raise UserError(
            f"--tensor_parallel_degree {degree} needs {degree} processes, or a multiple, and there are {count}: "
            f"start it with {launch} {sys.argv[0]} …"
        )
    return Part(rank // degree, count // degree), rank % degree == 0


def check_alone(arguments, part):
    """Raise UserError for a conversation with several processes that do not divide a model; arguments:
    PromptArguments."""
    if arguments.interactive and part.count > 1:
        raise UserError(
            f"--interactive: one process has a conversation, and there are {part.count} with a whole model each; start "
            "one, or divide the model among them by --tensor_parallel_degree"
        )


def backend():
    """What the launcher has to be told on a machine without GPUs, as far as can be seen without importing paddle."""
    return "" if find_spec("nvidia") or os.path.exists("/proc/driver/nvidia") else " --backend gloo"
