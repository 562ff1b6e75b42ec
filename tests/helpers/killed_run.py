"""Runs finetune_generation.py and kills it, by SIGKILL, before its n-th write step under output_dir.

A write step is whatever changes the disk in a save: a file opened for writing, an array written, a file or directory
forced to the disk, a name made, changed or removed. With N 0 nothing is killed and their number is printed.
"""

import glm.runtime

import os
import signal
import sys
from pathlib import Path

import finetune_generation
import glm.training.arguments  # noqa: F401
import utils  # noqa: F401  what takes seconds to import is there before a process is forked, see killing.start()
from glm.weights import weight_writers

NAMES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod")


class Killer:
    """Counts write steps and kills the process before the n-th."""

    def __init__(self, fatal, directory):
        self.fatal, self.directory, self.count = fatal, str(Path(directory).resolve()), 0

    def step(self):
        """A write step is about to be made."""
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def is_inside(self, path):
        """Whether a path is one of a save."""
        if not isinstance(path, (str, os.PathLike)):
            return False
        path = os.path.abspath(path)
        return path.startswith((f"{self.directory}/.", f"{self.directory}/checkpoint-", f"{self.directory}/model."))

    def audit(self, event, arguments):
        """What the interpreter tells of."""
        if (
            event in NAMES
            and self.is_inside(arguments[0])
            or event == "open"
            and self.is_inside(arguments[0])
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            self.step()


def run_forked(log, fatal, flags):
    """main() in a process that was forked, whose output goes to a file."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(fatal, flags)


def main(fatal, arguments):
    """Run with write steps counted."""
    killer = Killer(fatal, arguments[arguments.index("--output_dir") + 1])
    force, write = os.fsync, weight_writers.WeightsWriter.write

    def counted_fsync(descriptor):
        killer.step()
        force(descriptor)

    def counted_write(self, *pieces):
        killer.step()
        write(self, *pieces)

    os.fsync, weight_writers.WeightsWriter.write = counted_fsync, counted_write
    sys.addaudithook(killer.audit)
    finetune_generation.main(arguments)
    print(f"write steps: {killer.count}")
