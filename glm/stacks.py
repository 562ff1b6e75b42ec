"""The stacks that the scripts run on, a version of paddle with one of paddlenlp, and all in which they differ: nothing
else asks which of them is installed.

                reference          paddle3            why
                paddle 2.6.2       paddle 3.3.1
                paddlenlp 2.8.1    paddlenlp 3.0.0b4

program_format  paddle (.pdmodel)  pir (.json)        paddle 3 exports its new representation, PIR, alone; it reads both
has_fc          True               False              in PIR, no operator is a matrix product with a bias: two do it
has_flashmask   False              True               paddle 2.6 has no attention under such a mask in one kernel
needs_kernels   False              True               paddle 3 puts an operator into a program only of a dtype that this
                                                      build of it has a kernel for
keeps_log       True               False              paddlenlp 3 empties state.log_history at every entry, and early
                                                      stopping counts in it
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata


@dataclass(frozen=True)
class Stack:
    """A stack: its name, and what it has of the table above."""

    name: str
    program_format: str
    has_fc: bool
    has_flashmask: bool
    needs_kernels: bool
    keeps_log: bool


REFERENCE = Stack(
    "reference", program_format="paddle", has_fc=True, has_flashmask=False, needs_kernels=False, keeps_log=True
)
PADDLE3 = Stack("paddle3", program_format="pir", has_fc=False, has_flashmask=True, needs_kernels=True, keeps_log=False)


@lru_cache(maxsize=1)
def current():
    """The Stack that is installed, by the version of its paddle; imports nothing heavy."""
    for package in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            return PADDLE3 if int(metadata.version(package).split(".")[0]) >= 3 else REFERENCE
        except metadata.PackageNotFoundError:
            continue
    return REFERENCE


@lru_cache(maxsize=1)
def has_gpu_build():
    """Whether paddle's build for GPUs is installed, whether or not there is a GPU; imports nothing heavy."""
    try:
        return bool(metadata.version("paddlepaddle-gpu"))
    except metadata.PackageNotFoundError:
        return False
