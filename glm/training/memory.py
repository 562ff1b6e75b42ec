"""How much memory a training run needs at its peak: an estimate from the model's shape and its longest rows.

It counts what a run holds for certain and what the backward pass needs. Imports no paddle.
"""

from pathlib import Path

import numpy as np

from glm.errors import RunError

GIB = 2**30
# Numbers that a layer keeps for the backward pass, in hidden sizes a token: its input, both normalised inputs, the sum
# in the middle, the bits of two dropouts; and what tensor parallelism divides: query, key, value, context, both sides
# of GELU (four each).
KEPT_WHOLE, KEPT_DIVIDED = 4.5, 12
# Copies of the logits that the loss holds at once: logits, probabilities, their gradient.
LOGITS = 3
# Bytes of the process before any model is there: libraries.
PROCESS = 0.3 * GIB


def training_memory(
    config, parameters, trained, rows, *, kept=None, half=False, recompute=False, chunk=1024, degree=1, on_gpu=True
):
    """Estimated GiB by purpose on one device, with "total" last.

    config: GLMConfig, or anything with its fields. degree: of tensor parallelism. parameters, trained: how many numbers
    of the model a rank has, and how many of them are trained. rows: (source, target) tokens of the rows of the largest
    micro-batch. kept: how many numbers the optimizer keeps; by default AdamW's, two for each that is trained. half:
    whether weights and activations are float16 or bfloat16, with float32 master weights for the optimizer. recompute:
    whether layers are computed anew in the backward pass. chunk: target tokens whose logits are held at a time. on_gpu:
    whether it runs in the ways that suit GPUs, which keep more.
    """
    width = 2 if half else 4
    tokens, targets = sum(map(sum, rows)), sum(target for _, target in rows)
    # Softmax and a byte for the bits of dropout; on GPUs what it leaves of softmax, too.
    of_score = (2 if on_gpu else 1) * width + 1
    scores = sum((source + target) ** 2 for source, target in rows) * config.num_attention_heads / degree * of_score
    layer = (KEPT_WHOLE + KEPT_DIVIDED / degree) * tokens * config.hidden_size * width + scores
    inputs = tokens * config.hidden_size * width * config.num_layers
    logits = LOGITS * min(targets, chunk) * config.vocab_size / degree * 4
    embeddings = config.vocab_size * config.hidden_size / degree * width
    parts = {
        "weights": parameters * width,
        # On GPUs the head's share of the embeddings' gradient is there before it is added to that of the lookup.
        "gradients": trained * width + (embeddings if on_gpu and trained == parameters else 0),
        "optimizer": 4 * ((2 * trained if kept is None else kept) + (trained if half else 0)),
        "process": PROCESS,
        "activations": (inputs + layer if recompute else config.num_layers * layer) + logits,
    }
    parts = {name: size / GIB for name, size in parts.items()}
    return {**parts, "total": sum(parts.values())}


def largest_micro_batch(lengths, batch_size, capacity=None):
    """(source, target) tokens of the rows that could make the largest micro-batch: the longest.

    lengths: (source, target) of all rows. capacity: tokens of a packed row, which may be full.
    """
    lengths = np.asarray(lengths)
    longest = lengths[np.argsort(-lengths.sum(axis=1), kind="stable")[:batch_size]].tolist()
    if capacity is None:
        return longest
    return [[capacity - target, target] for _, target in longest]


class OutOfMemory(RunError):
    """A step needed more memory than there is. is_whole: whether the model and the optimizer are as before the step."""

    def __init__(self, message, is_whole):
        super().__init__(message)
        self.is_whole = is_whole


def advice(step, rows, tokens, estimate):
    """One line on memory that ran out.

    step: number of the step. rows, tokens: of its micro-batch. estimate: of the run, GiB in all; None if there is none.
    """
    expected = f" (the estimate was {estimate:.2f} GiB for the largest)" if estimate else ""
    return (
        f"memory ran out in step {step}, with {rows} examples of {tokens} tokens in a micro-batch{expected}: halve "
        "--per_device_train_batch_size and double --gradient_accumulation_steps (--auto_batch does that), or give "
        "--recompute, or shorter --src_length and --tgt_length (which also bound the rows of --packing), or --lora True"
    )


def available():
    """GiB of memory that the machine has to give now, None where nobody says (not Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return kib and kib * 1024 / GIB
