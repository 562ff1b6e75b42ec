"""What this processor multiplies with."""

from glm.runtime import AVX512, read_text

import os
import platform

# Of x86, instructions that sum four products of 8 bits in 32. The older one sums pairs in 16, and cuts off what is
# larger than that holds.
SUMS_IN_32_BITS = {"avx512_vnni", "avx_vnni"}


def sums_in_32_bits(machine=None, cpuinfo=None):
    """Whether sums of products of uint8 and int8 are exact here, in onnxruntime.

    machine, cpuinfo: what the platform says of itself; default: this one's.
    """
    machine = platform.machine() if machine is None else machine
    if machine.lower() not in ("x86_64", "amd64", "i686", "x86"):
        return True
    cpuinfo = read_text("/proc/cpuinfo") if cpuinfo is None else cpuinfo
    return bool(SUMS_IN_32_BITS & set(cpuinfo.split()))


def multiplies_with_avx512(cpuinfo=None):
    """Whether MKL multiplies matrices with AVX-512 here; cpuinfo: what the system says of the processor."""
    cpuinfo = read_text("/proc/cpuinfo") if cpuinfo is None else cpuinfo
    return set(cpuinfo.split()) >= AVX512


def threads():
    """CPU threads to use: what OMP_NUM_THREADS says."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))
