"""Where this process computes, and which of two ways to compute suits that: the one place that asks.

What has a way of its own for GPUs asks takes_gpu_branches(), and nothing else. Tests answer for it, and so run on CPU
what users run on a GPU.
"""

import paddle

HALVES = ("float16", "bfloat16")


def is_built_for_gpus():
    """Whether this paddle is one that computes on GPUs, whether or not there is one here."""
    return paddle.is_compiled_with_cuda()


def name():
    """Where this process computes: cpu, gpu:0, …"""
    return paddle.get_device()


def on_gpu():
    """Whether this process computes on a GPU."""
    return name().startswith("gpu")


def takes_gpu_branches():
    """Whether to compute in the ways that suit GPUs: few and large operators, and no waiting for what they find."""
    return on_gpu()


def is_half(tensor):
    """Whether a tensor is of half precision."""
    return tensor.dtype in (paddle.float16, paddle.bfloat16)


def has_flashmask():
    """Whether attention can run in FlashMask's kernel: paddle 3 has it, for GPUs from Ampere on (8.0)."""
    if not hasattr(paddle.nn.functional, "flashmask_attention"):
        return False
    return paddle.device.cuda.get_device_capability() >= (8, 0)


def peak_gpu_gib():
    """The most memory that a GPU has given so far, in GiB; None where there is none."""
    if is_built_for_gpus() and paddle.device.cuda.device_count():
        return paddle.device.cuda.max_memory_allocated() / 2**30
    return None
