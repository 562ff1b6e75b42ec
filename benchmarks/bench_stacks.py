"""The two stacks side by side: decoding in Python and exported, and a step of training.

    python benchmarks/bench_stacks.py --write

Needs an environment of each stack: `make setup STACK=reference VENV=.venv` and `make setup PYTHON=python3.12
VENV=.venv-paddle3`, or what --reference and --paddle3 name.
Models, prompts and batches are those of bench_decode.py and bench_train.py; each stack decodes by the program that it
exports itself. All sides have the same threads and environment, each in a process of its own, and take turns.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from contextlib import ExitStack

import bench_decode
import bench_train
from bench_decode import BEAMS, NEW
from measuring import Figure, Worker, alternated, machine, parser, prepared_directory, report

ROOT = Path(__file__).resolve().parents[1]
STACKS = {"reference": ROOT / ".venv" / "bin" / "python", "paddle3": ROOT / ".venv-paddle3" / "bin" / "python"}
# What is timed: name → (script, side of it, request).
CASES = {
    **{
        f"{side}_{'greedy' if beams == 1 else 'beam5'}_{source}": (
            bench_decode.__file__,
            side,
            {"source": source, "beams": beams, "new": NEW},
        )
        for side in ("eager", "exported")
        for beams in (1, BEAMS)
        for source in (64, 608)
    },
    "training_step": (bench_train.__file__, "ours", {"number": 0}),
}
REPORT = """
Seconds of each, and paddle3's over reference's:

| What | reference | paddle3 | ratio |
|---|---|---|---|
{ROWS}
"""


def main():
    """Compare the stacks and report."""
    flags = parser(__doc__)
    for stack, python in STACKS.items():
        flags.add_argument(f"--{stack}", default=python, help=f"Python of the {stack} stack (default: {python})")
    arguments = flags.parse_args()
    print(machine())
    scripts = {script for script, _, _ in CASES.values()}
    with ExitStack() as running:
        workers, requests = {}, {}
        for stack in STACKS:
            python = str(getattr(arguments, stack))
            places = {script: running.enter_context(prepared_directory(script, python)) for script in scripts}
            for name, (script, side, request) in CASES.items():
                key = stack, side
                if key not in workers:
                    start = Worker(script, side, "--directory", places[script], python=python)
                    workers[key] = running.enter_context(start)
                requests.setdefault(key, {})[name] = request
        times = alternated(workers, requests, arguments.repeats)
    results, rows = {}, []
    for name, (_, side, _) in CASES.items():
        taken = [times[(stack, side), name] for stack in STACKS]
        for stack, of_stack in zip(STACKS, taken, strict=True):
            results[f"{name}_{stack}_seconds"] = Figure(of_stack, 2)
        results[f"{name}_ratio"] = Figure(taken[1] / taken[0], 2)
        rows.append(f"| {name} | {{{name}_reference_seconds}} | {{{name}_paddle3_seconds}} | {{{name}_ratio}} |")
    return report(results, arguments, __file__, REPORT.replace("{ROWS}", "\n".join(rows)))


if __name__ == "__main__":
    main()
