"""Where this process computes, and which of two ways to compute suits that: the one place that asks.

What has a way of its own for GPUs asks takes_gpu_branches(), and nothing else. Tests answer for it, and so run on CPU
what users run on a GPU.
"""

from glm import stacks
from glm.command_line import UsageError
from glm.ops.dtypes import HALVES


def is_built_for_gpus():
    """Whether this paddle is one that computes on GPUs, whether or not there is one here."""
    import paddle

    return paddle.is_compiled_with_cuda()


def name():
    """Where this process computes: cpu, gpu:0, …"""
    import paddle

    return paddle.get_device()


def on_gpu():
    """Whether this process computes on a GPU; paddle is imported to find out only where it may be so."""
    return stacks.has_gpu_build() and name().startswith("gpu")


def takes_gpu_branches():
    """Whether to compute in the ways that suit GPUs: few and large operators, and no waiting for what they find."""
    return on_gpu()


def is_half(tensor):
    """Whether a tensor is of half precision."""
    import paddle

    return tensor.dtype in (paddle.float16, paddle.bfloat16)


def dtype_of_weights(asked, stored):
    """The dtype to compute in: what was asked for (float32, float16, bfloat16), or what suits this device for auto:
    float32 on CPU, on a GPU the dtype that stored() gives, a function. Raises UsageError for what cannot be computed.
    """
    if asked == "auto":
        dtype = stored() if takes_gpu_branches() else "float32"
        return "float32" if dtype == "bfloat16" and not has_bfloat16() else dtype
    if asked in HALVES and not takes_gpu_branches():
        raise UsageError(f"--dtype {asked} needs a GPU: paddle cannot multiply such matrices on CPU; leave it out")
    if asked == "bfloat16" and not has_bfloat16():
        raise UsageError("--dtype bfloat16: this GPU has none; give --dtype float16 or float32")
    return asked


def has_bfloat16():
    """Whether the GPU computes in bfloat16."""
    import paddle

    return paddle.amp.is_bfloat16_supported()


def has_flashmask():
    """Whether attention can run in FlashMask's kernel, which is for GPUs from Ampere on (8.0)."""
    import paddle

    return stacks.current().has_flashmask and paddle.device.cuda.get_device_capability() >= (8, 0)


def peak_gpu_gib():
    """The most memory that a GPU has given so far, in GiB; None where there is none."""
    import paddle

    if is_built_for_gpus() and paddle.device.cuda.device_count():
        return paddle.device.cuda.max_memory_allocated() / 2**30
    return None
