"""What loading GLM-10B in half precision allocates, by a model of its shape at a sixteenth of its width.

    python benchmarks/bench_load.py --json

The model has GLM-10B's 48 layers and 64 heads; hidden size (256), vocabulary (3128) and positions (64) are a sixteenth
of GLM-10B's, so that each weight has the same share of the whole as there, and random weights. Bytes are counted while
they are allocated, by Paddle's allocator and by NumPy's, and the most of each is added up. Each case has a process of
its own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import math
import tempfile
import tracemalloc

import numpy as np
from measuring import Worker, machine, parser, report, serve

from glm.ops.dtypes import WEIGHT_DTYPES
from glm.weights.stored_weights import expected_shapes, write_arrays, write_json

LARGE = {"hidden_size": 4096, "num_layers": 48, "num_attention_heads": 64, "vocab_size": 50048}
LARGE["max_sequence_length"] = 1024
SMALL = {**LARGE, "hidden_size": 256, "vocab_size": 3128, "max_sequence_length": 64}
# Stored in, loaded as.
CASES = [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "bfloat16"), ("bfloat16", "float32")]
ROWS = [
    f"| {stored} | {loaded} | {{{stored}_{loaded}_file_mb}} | {{{stored}_{loaded}_mb}} | {{{stored}_{loaded}_ratio}} |"
    for stored, loaded in CASES
]
REPORT = """
| stored in | loaded as | file, MB | allocated at most, MB | allocated / file |
|---|---|---|---|---|
""" + "\n".join(ROWS)
REPORT += """

Beyond the weights themselves, one weight at a time is held once more. GLM-10B's {large_parameters} parameters take
{large_gb} GB in half precision, and its largest weight, the word embeddings, {large_weight_gb} GB: at most
{large_peak_gb} GB, {large_ratio} of the file, and {large_float32_gb} GB in float32.
"""


def prepare(directory, dtype):
    """Write a model of the small shape, without a tokenizer."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape, "float32") for name, shape in expected_shapes(SMALL).items()}
    write_arrays(weights, Path(directory) / "model.safetensors", dtype)
    write_json({"architectures": ["GLMForConditionalGeneration"], **SMALL}, Path(directory) / "config.json")


def load(directory, dtype):
    """Load a directory's model; the bytes that this has allocated at most, and what there is of it in the end."""
    from paddle.base import core

    from glm.weights import model_directory

    # What is imported on the way is no weight.
    model_directory.empty_model(model_directory.load_config(directory))
    tracemalloc.start()
    before = core.host_memory_stat_current_value("Allocated", 0)
    model = model_directory.load_model(directory, dtype)
    most = core.host_memory_stat_peak_value("Allocated", 0) - before + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dtypes = sorted({str(parameter.dtype).split(".")[-1] for parameter in model.parameters()})
    held = sum(math.prod(parameter.shape) for parameter in model.parameters()) * WEIGHT_DTYPES[dtypes[0]].itemsize
    return {
        "most": most,
        "held": held,
        "dtypes": dtypes,
        "file": (Path(directory) / "model.safetensors").stat().st_size,
    }


def arithmetic():
    """GLM-10B's figures, from the shapes of its weights."""
    sizes = [math.prod(shape) for shape in expected_shapes(LARGE).values()]
    total, largest = 2 * sum(sizes), 2 * max(sizes)
    return {
        "large_parameters": f"{sum(sizes):,}",
        "large_gb": f"{total / 1e9:.2f}",
        "large_weight_gb": f"{largest / 1e9:.2f}",
        "large_peak_gb": f"{(total + largest) / 1e9:.2f}",
        "large_ratio": f"{(total + largest) / total:.3f}",
        "large_float32_gb": f"{2 * total / 1e9:.2f}",
    }


def main():
    """Measure every case and report."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker == "prepare":
        return serve(lambda dtype: prepare(arguments.directory, dtype) or {})
    if arguments.worker:
        return serve(lambda: load(arguments.directory, arguments.worker))
    print(machine())
    results = arithmetic()
    for stored, loaded in CASES:
        with tempfile.TemporaryDirectory() as directory:
            with Worker(__file__, "prepare", "--directory", directory) as worker:
                worker.ask(dtype=stored)
            with Worker(__file__, loaded, "--directory", directory) as worker:
                found = worker.ask()
        assert found["dtypes"] == [loaded], json.dumps(found)
        name = f"{stored}_{loaded}"
        results[f"{name}_file_mb"] = f"{found['file'] / 1e6:.1f}"
        results[f"{name}_mb"] = f"{found['most'] / 1e6:.1f}"
        results[f"{name}_ratio"] = f"{found['most'] / found['file']:.3f}"
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
