"""A training step of GLM-Large's shape (24 layers, hidden size 1024, 16 heads, vocabulary 50048) with random weights.

    python benchmarks/bench_large_train.py --json

Steps of AdamW over 2 examples, of the lengths that bench_train.py draws and of the longest allowed (608 and 160
tokens), with and without --recompute: seconds a step and the most memory that the process had, beside the estimate of
memory.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import runtime  # noqa: F401  sets what paddle reads when it is imported

import statistics

from bench_decode import LARGE, save_model
from bench_train import lengths, our_side, row
from measuring import Worker, machine, parser, prepared_directory, report, seconds, serve

import checkpoint
import memory

STEPS = 6
BATCHES = {"typical": [lengths(number)[:2] for number in range(STEPS)], "longest": [[(608, 160)] * 2] * STEPS}


def work(side, directory):
    """Serve {"batch": name, "number": n}: step n over a batch; the side says whether layers are recomputed."""
    if side == "prepare":
        return serve(lambda: save_model(directory, LARGE) or {})
    step = our_side(directory, recompute=side == "recompute")

    def answer(batch, number):
        rows = [row(number, *pair) for pair in BATCHES[batch][number]]
        return {"seconds": seconds(lambda: step(rows, number))}

    return serve(answer)


def main():
    """Measure and report."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory)
    print(machine())
    results = {}
    with prepared_directory(__file__) as directory:
        config = checkpoint.load_config(directory)
        parameters = Path(directory, checkpoint.SAFETENSORS).stat().st_size // 4
        for batch in BATCHES:
            for side in ("plain", "recompute"):
                with Worker(__file__, side, "--directory", directory) as worker:
                    answers = [worker.ask(batch=batch, number=number) for number in range(STEPS)]
                rows = max(BATCHES[batch], key=lambda pairs: sum(map(sum, pairs)))
                parts = memory.training_memory(config, parameters, parameters, rows, recompute=side == "recompute")
                results[f"{batch}_{side}_seconds"] = round(statistics.median(a["seconds"] for a in answers[2:]), 2)
                results[f"{batch}_{side}_peak_gib"] = round(answers[-1]["peak_mib"] / 1024, 2)
                results[f"{batch}_{side}_estimated_gib"] = round(parts["total"], 2)
    return report(results, arguments.json)


if __name__ == "__main__":
    main()
