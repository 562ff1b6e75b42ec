"""What must be so before paddle is imported: every script imports this module before any other.

Importing it ends a Python that is too old, imports zlib ahead of paddle, sets environment variables (one that is set
already stays as it is), tells the C library to keep memory that is freed, and silences what third parties say on import
that means nothing to a user. It imports nothing heavy.
"""

import sys

# Before anything that an older Python cannot import.
if sys.version_info < (3, 10):  # noqa: UP036  for whoever starts a script with it
    sys.stderr.write(
        f"error: this is Python {sys.version.split()[0]}, and GLM needs 3.10 to 3.13: run make setup, then "
        f".venv/bin/python {' '.join(sys.argv[:1])} …\n"
    )
    sys.exit(2)

import ctypes
import io
import os
import warnings
import zlib  # noqa: F401  Python's own before paddle: otherwise paddle 2.6.2 and pyarrow meet on two, and crash or hang
from collections.abc import Mapping

# What MKL's AVX-512 code is written in, as cpuinfo names it.
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
# Parameters of mallopt(), as malloc.h numbers them.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Warnings of third parties on import, about what no user of these scripts can change.
NO_NEWS = ("Setuptools is replacing distutils", "No ccache found", "invalid escape sequence")
PADDLE_THREAD_ADVICE = ("WARNING: OMP_NUM_THREADS set to ", "PLEASE USE OMP_NUM_THREADS WISELY.")


def read_text(path: str) -> str:
    """The text of a file of the system's; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def usable_cores(cpu_max: str) -> int:
    """The number of cores this process may use, at least 1; cpu_max: the text of its control group's cpu.max.

    A container often sees all cores of its host and is throttled to a quota ("200000 100000": two cores).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = cpu_max.strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def ranks_on_this_machine(environ: Mapping[str, str]) -> int:
    """The number of ranks that paddle.distributed.launch runs on the machine of this one; 1 without it."""
    host = environ.get("PADDLE_CURRENT_ENDPOINT", "").rpartition(":")[0]
    endpoints = environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    return max(1, sum(endpoint.rpartition(":")[0] == host for endpoint in endpoints))


def environment_to_set(environ: Mapping[str, str], cpuinfo: str, cores: int) -> dict[str, str]:
    """The variables to set before paddle is imported, given those set, the text of cpuinfo and the usable cores.

    A variable in `environ` is not in the result, except an OMP_NUM_THREADS of 1 under paddle.distributed.launch: the
    launcher imports paddle, which writes that 1 into the environment the ranks inherit, whatever the user wants.
    """
    # glog's information lines are for who develops paddle; its warnings and errors stay.
    wanted = {"GLOG_minloglevel": "1"}
    # An exported program runs its loop's operators one after another anyway. Handed to a pool of threads, which wait
    # by spinning, and with memory freed after each operator, a decoding step takes nearly twice as long.
    wanted["FLAGS_new_executor_serial_run"] = "1"
    wanted["FLAGS_eager_delete_tensor_gb"] = "-1"
    # Made once instead of for every run; a tenth of what a short prompt takes.
    wanted["FLAGS_cache_inference_while_scope"] = "1"
    if "vendor_id" in cpuinfo:
        # An x86 processor. Paddle is built with MKL there, and uses one thread unless told otherwise; its builds for
        # other processors come with OpenBLAS, of which paddle says that it fails with more than one.
        wanted["OMP_NUM_THREADS"] = str(max(1, cores // ranks_on_this_machine(environ)))
    if "AuthenticAMD" in cpuinfo:
        # MKL takes its slowest path on AMD unless told what the processor can do: 5 is AVX2, four times as fast, and 7
        # AVX-512, up to twice as fast again.
        wanted["MKL_DEBUG_CPU_TYPE"] = "7" if set(cpuinfo.split()) >= AVX512 else "5"
    kept = set(environ)
    if "PADDLE_TRAINER_ENDPOINTS" in environ and environ.get("OMP_NUM_THREADS") == "1":
        kept.remove("OMP_NUM_THREADS")
    return {name: value for name, value in wanted.items() if name not in kept}


class WithoutPaddleThreadAdvice:
    """A text stream that drops the two lines paddle prints on import when it is given more than one thread.

    They advise against what is the faster choice here, and paddle has no switch for them.
    """

    def __init__(self, stream: io.TextIOBase):
        self._stream = stream
        self._drop_newline = False

    def write(self, text: str) -> int:
        advice = text.startswith(PADDLE_THREAD_ADVICE)
        end_of_advice = self._drop_newline and text == "\n"  # print() writes the end of a line by itself
        self._drop_newline = advice
        return len(text) if advice or end_of_advice else self._stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def keep_freed_memory() -> None:
    """Make glibc's malloc keep what is freed, for the next allocation. Elsewhere, or where the user has set a MALLOC_
    variable, do nothing.

    By default it gives every larger tensor back to the system and asks for the next one's memory anew, page by page,
    which takes several times as long as computing the tensor.
    """
    mallopt = None if sys.platform != "linux" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def apply() -> None:
    """Set the variables, keep freed memory, have terminals show what they can, drop paddle's advice, and ignore a
    warning of setuptools (unless -W or PYTHONWARNINGS)."""
    cores = usable_cores(read_text("/sys/fs/cgroup/cpu.max"))
    os.environ.update(environment_to_set(os.environ, read_text("/proc/cpuinfo"), cores))
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another encoding shows what it cannot write as escapes, instead of ending the run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is not None:
        sys.stderr = WithoutPaddleThreadAdvice(sys.stderr)
    if not sys.warnoptions:
        for message in NO_NEWS:
            warnings.filterwarnings("ignore", message=message)


apply()
