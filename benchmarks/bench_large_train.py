"""A training step of GLM-Large's shape (24 layers, hidden size 1024, 16 heads, vocabulary 50048) with random weights.

    python benchmarks/bench_large_train.py --json

Steps of AdamW over 2 examples, of the lengths that bench_train.py draws and of the longest allowed (608 and 160
tokens), with all weights trained and with LoRA adapters of rank 8, with and without --recompute: seconds a step and the
most memory that the process had, beside the estimate of memory.py. Sides of the typical lengths take turns, as many as
fit into 24 GiB together.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from contextlib import ExitStack

import numpy as np
from bench_decode import LARGE, save_model
from bench_train import lengths, our_side, row
from measuring import Figure, Worker, machine, parser, prepared_directory, report, seconds, serve

from glm.model.lora import LoraConfig, add_lora, lora_parameters
from glm.training import memory
from glm.weights import model_directory
from glm.weights.weight_sources import SAFETENSORS

STEPS = 6
BATCHES = {"typical": [lengths(number)[:2] for number in range(STEPS)], "longest": [[(608, 160)] * 2] * STEPS}
# Sides that are measured in turn, and the batches that they get.
GROUPS = [
    ("typical", ("full", "lora", "lora_all")),
    ("typical", ("full_recompute", "lora_all_recompute")),
    *(("longest", (side,)) for side in ("full", "full_recompute", "lora_all", "lora_all_recompute")),
]
TARGETS = {"lora": ("query_key_value",), "lora_all": ("all",)}
ROWS = {"typical": "as DuReaderQG's", "longest": "608 + 160 tokens"}
TRAINED = {"full": "all", "lora": "LoRA, `query_key_value`", "lora_all": "LoRA, all"}
REPORT = (
    """
| Rows | Trained | `--recompute` | seconds a step | of all weights' | peak memory, GiB | estimate of `--dry_run` |
|---|---|---|---|---|---|---|
"""
    + "\n".join(
        f"| {ROWS[batch]} | {TRAINED[side.removesuffix('_recompute')]} | "
        f"{'yes' if side.endswith('_recompute') else 'no'} | {{{batch}_{side}_seconds}} | "
        + ("" if side == sides[0] else f"{{{batch}_{side}_time_vs_{sides[0]}}}")
        + f" | {{{batch}_{side}_peak_gib}} | {{{batch}_{side}_estimated_gib}} |"
        for batch, sides in GROUPS
        for side in sides
    )
    + """

| Size of the adapter, of its base's, both float32 | Figure |
|---|---|
| `lora_size_vs_base` | {lora_size_vs_base} |
| `lora_all_size_vs_base` | {lora_all_size_vs_base} |
"""
)


def adapter_of(side):
    """LoraConfig of a side, None where all weights are trained."""
    targets = TARGETS.get(side.removesuffix("_recompute"))
    return targets and LoraConfig(r=8, target_modules=targets)


def work(side, directory):
    """Serve {"batch": name, "number": n}: step n over a batch; the side says what is trained, and whether layers are
    recomputed."""
    if side == "prepare":
        return serve(lambda: save_model(directory, LARGE) or {})
    step = our_side(directory, recompute=side.endswith("_recompute"), lora=adapter_of(side))

    def answer(batch, number):
        rows = [row(number, *pair) for pair in BATCHES[batch][number]]
        return {"seconds": seconds(lambda: step(rows, number))}

    return serve(answer)


def measured(batch, sides, directory):
    """{side: (seconds of its steps but the first two, an array; peak GiB)}; the sides take turns."""
    answers = {side: [] for side in sides}
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(__file__, side, "--directory", directory)) for side in sides}
        for number in range(STEPS):
            for side, worker in workers.items():
                answers[side].append(worker.ask(batch=batch, number=number))
    return {
        side: (np.array([answer["seconds"] for answer in of_side[2:]]), of_side[-1]["peak_mib"] / 1024)
        for side, of_side in answers.items()
    }


def estimated(batch, side, config, parameters, trained):
    """The estimate of memory.py, in GiB."""
    rows = max(BATCHES[batch], key=lambda pairs: sum(map(sum, pairs)))
    how = {"recompute": side.endswith("_recompute"), "on_gpu": False}
    return memory.training_memory(config, parameters + trained, trained or parameters, rows, **how)["total"]


def numbers_of_adapter(config, adapter):
    """How many numbers an adapter of a model has; 0 for None."""
    if adapter is None:
        return 0
    return sum(
        factor.size for factor in lora_parameters(add_lora(model_directory.empty_model(config), adapter)).values()
    )


def main():
    """Measure and report."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory)
    print(machine())
    results = {}
    with prepared_directory(__file__) as directory:
        config = model_directory.load_config(directory)
        parameters = Path(directory, SAFETENSORS).stat().st_size // 4
        for batch, sides in GROUPS:
            times = measured(batch, sides, directory)
            for side, (taken, peak) in times.items():
                trained = numbers_of_adapter(config, adapter_of(side))
                results[f"{batch}_{side}_seconds"] = Figure(taken, 2)
                results[f"{batch}_{side}_peak_gib"] = Figure(peak, 2)
                results[f"{batch}_{side}_estimated_gib"] = Figure(
                    estimated(batch, side, config, parameters, trained), 2
                )
                if side != sides[0]:
                    results[f"{batch}_{side}_time_vs_{sides[0]}"] = Figure(taken / times[sides[0]][0], 2)
                if trained:
                    results[f"{side.removesuffix('_recompute')}_size_vs_base"] = round(trained / parameters, 5)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
