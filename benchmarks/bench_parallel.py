"""Tensor and data parallelism on CPU: a training step and decoding by two processes, beside one process with all cores.

    python benchmarks/bench_parallel.py --json

The model, the batches and the step of bench_train.py (6 layers, hidden size 512, vocabulary 50048, 8 examples a step),
and 2 prompts of 257 tokens decoded greedily. Two ranks have half of the cores each. It shows what exchanging costs, not
a gain: both ways have the same two cores.

exchanges, exchanged_mib: sums and gatherings over the ranks in a step, and the tensors that they take, on each rank.
gathering_share: the part of a decoding step in which logits are gathered from both halves of the vocabulary.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
from bench_decode import SMALL, SPECIAL, decoding, random_prompts, save_model
from bench_train import SOP, lengths, optimizer_of, row
from measuring import Figure, machine, parser, peak_mib, report

from glm.parallel.hub import Hub

STEPS, NEW = 6, 32
RANKS = 2
MARK = "measured: "
REPORT = """
| Side | seconds a step | of one process's | exchanged a step | peak memory of a rank, MiB | decoding, ms a token |
|---|---|---|---|---|---|
| one process | {one_step_seconds} | | | {one_peak_mib} | {one_decoding_ms_a_token} |
| 2 tensor-parallel ranks | {tensor_step_seconds} | {tensor_step_vs_one} | {tensor_exchanges_a_step} exchanges, {tensor_exchanged_mib_a_step} MiB | {tensor_peak_mib} | {tensor_decoding_ms_a_token} |
| 2 data-parallel ranks, each decoding all prompts | {data_step_seconds} | {data_step_vs_one} | {data_exchanges_a_step} exchanges, {data_exchanged_mib_a_step} MiB | {data_peak_mib} | {data_decoding_ms_a_token} |

| Key | Figure |
|---|---|
| `tensor_decoding_vs_one` | {tensor_decoding_vs_one} |
| `gathering_share` | {gathering_share} |
"""  # noqa: E501
SIDE, DIRECTORY = "BENCH_PARALLEL_SIDE", "BENCH_PARALLEL_DIRECTORY"


def work(side, directory):
    """Measure a side in this rank; the first one prints the figures."""
    import paddle

    from glm.data import examples
    from glm.decoding.decoder import Decoder, run
    from glm.ops.strides import without_views
    from glm.parallel import layers
    from glm.training.callbacks import AverageGradients
    from glm.training.optimization import AdamW, GlobalNormClip
    from glm.weights import model_directory

    ranks = layers.launched_ranks()
    tensor = ranks if side == "tensor" else layers.ALONE
    # What averages gradients alone, goes through gloo in one message.
    ranks.group = layers.dist.get_group() if side == "data" else None
    model = model_directory.load_model(directory, ranks=tensor)
    model.train()
    optimizer = optimizer_of(model, AdamW, GlobalNormClip(1.0, tensor))
    counted = Counted(layers.dist)

    def step(number):
        pairs = lengths(number)[ranks.rank :: ranks.size] if side == "data" else lengths(number)
        arrays = examples.collate([row(number, *pair) for pair in pairs], SOP)
        with without_views():
            model(**{name: paddle.to_tensor(array) for name, array in arrays.items()}, divisor=100.0).backward()
        if side == "data":
            AverageGradients(ranks).on_optimizer_begin(None, None, None, model=model)
        optimizer.step()
        optimizer.clear_grad()

    times = []
    for number in range(STEPS):
        counted.reset()
        start = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - start)
    figures = {"seconds": statistics.median(times[2:]), "exchanges": counted.calls, "exchanged": counted.bytes}
    model.eval()
    decoder, prompts = Decoder(model, decoding(1, NEW), SPECIAL), random_prompts(257)
    for _ in range(2):
        counted.reset()
        start = time.perf_counter()
        run(decoder, prompts, decoding(1, NEW))
        figures["decoding"], figures["gathering"] = time.perf_counter() - start, counted.gathering
    if ranks.rank == 0:
        print(MARK + json.dumps({**figures, "peak_mib": peak_mib()}), flush=True)


class Counted:
    """Counts what ranks exchange, and the time of gathering."""

    def __init__(self, dist):
        self.reset()
        combined, all_reduce = Hub.combined, dist.all_reduce

        def counted_combined(hub, array, combine, shape):
            start, result = time.perf_counter(), self.count(array.nbytes, combined(hub, array, combine, shape))
            self.gathering += time.perf_counter() - start if combine is np.stack else 0.0
            return result

        Hub.combined = counted_combined
        dist.all_reduce = lambda tensor, **options: self.count(4 * tensor.size, all_reduce(tensor, **options))

    def reset(self):
        """Begin at zero."""
        self.calls = self.bytes = 0
        self.gathering = 0.0

    def count(self, size, result):
        """Count an exchange of some bytes; its result."""
        self.calls, self.bytes = self.calls + 1, self.bytes + size
        return result


def measured(side, directory):
    """The figures of a side."""
    command = [sys.executable]
    if side != "one":
        command += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(RANKS), "--backend", "gloo"]
        command += ["--log_dir", str(Path(directory) / "log")]
    # Not as flags, which the launcher would take for its own; and each side finds out itself how many threads it has.
    environment = {**os.environ, SIDE: side, DIRECTORY: directory}
    del environment["OMP_NUM_THREADS"]
    command.append(__file__)
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(next(line for line in said.splitlines() if line.startswith(MARK)).removeprefix(MARK))


def main():
    """Measure and report."""
    arguments = parser(__doc__).parse_args()
    if SIDE in os.environ:
        return work(os.environ[SIDE], os.environ[DIRECTORY])
    print(machine())
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        save_model(directory, SMALL)
        of_sides = {side: [] for side in ("one", "tensor", "data")}
        for _ in range(arguments.repeats):
            for side, found in of_sides.items():
                found.append(measured(side, directory))
    arrays = {
        side: {name: np.array([figures[name] for figures in found]) for name in found[0]}
        for side, found in of_sides.items()
    }
    of_one = arrays["one"]
    for side, values in arrays.items():
        results[f"{side}_step_seconds"] = Figure(values["seconds"], 3)
        results[f"{side}_decoding_ms_a_token"] = Figure(1000 * values["decoding"] / NEW, 1)
        results[f"{side}_peak_mib"] = Figure(values["peak_mib"])
        if side != "one":
            results[f"{side}_step_vs_one"] = Figure(values["seconds"] / of_one["seconds"], 2)
            results[f"{side}_exchanges_a_step"] = Figure(values["exchanges"])
            results[f"{side}_exchanged_mib_a_step"] = Figure(values["exchanged"] / 2**20, 1)
        if side == "tensor":
            results["tensor_decoding_vs_one"] = Figure(values["decoding"] / of_one["decoding"], 2)
            results["gathering_share"] = Figure(values["gathering"] / values["decoding"], 3)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
