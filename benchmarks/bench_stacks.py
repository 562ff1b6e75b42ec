"""The two stacks side by side: decoding in Python, decoding by an exported program, a step of training.

    python benchmarks/bench_stacks.py --write

Needs an environment of each stack, where --reference and --paddle3 say, made by

    make setup STACK=reference VENV=.venv
    make setup STACK=paddle3 PYTHON=python3.12 VENV=.venv-paddle3

Models, prompts and batches are those of bench_decode.py and bench_train.py; a stack decodes by the program that it has
exported itself. All sides have the same threads and environment, each in a process of its own, and take turns.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from contextlib import ExitStack

import bench_decode
import bench_train
from bench_decode import BEAMS
from measuring import Figure, Worker, alternated, machine, parser, prepared_directory, report

ROOT = Path(__file__).resolve().parents[1]
# Tokens of a text: few, so that turns are short against the drift of a machine's speed.
NEW = 16
STACKS = {"reference": ROOT / ".venv" / "bin" / "python", "paddle3": ROOT / ".venv-paddle3" / "bin" / "python"}
# {side: (its benchmark, {what is timed: the request})}
CASES = {
    **{
        side: (
            bench_decode.__file__,
            {
                f"{side}_{'greedy' if beams == 1 else f'beam{beams}'}_{source}": {
                    "source": source,
                    "beams": beams,
                    "new": NEW,
                }
                for beams in (1, BEAMS)
                for source in (64, 608)
            },
        )
        for side in ("eager", "exported")
    },
    "ours": (bench_train.__file__, {f"training_step_{number}": {"number": number} for number in (0, 1)}),
}
NAMES = [name for _, requests in CASES.values() for name in requests]
REPORT = """
Seconds of each, and those of paddle3 over those of reference:

| What | reference | paddle3 | ratio |
|---|---|---|---|
{ROWS}
"""


def tables(_):
    """REPORT with a row for each case."""
    rows = [f"| `{name}` | {{{name}_reference}} | {{{name}_paddle3}} | {{{name}_ratio}} |" for name in NAMES]
    return REPORT.replace("{ROWS}", "\n".join(rows))


def start_workers(pythons, running):
    """{(stack, side): Worker}, each stack's on files that it has prepared itself; they end with an ExitStack."""
    workers = {}
    for stack, python in pythons.items():
        scripts = {script for script, _ in CASES.values()}
        places = {script: running.enter_context(prepared_directory(script, python)) for script in scripts}
        for side, (script, _) in CASES.items():
            worker = Worker(script, side, "--directory", places[script], python=python)
            workers[stack, side] = running.enter_context(worker)
    return workers


def summary(times):
    """The figures of the report from seconds [repeats] by ((stack, side), name)."""
    results = {}
    for side, (_, requests) in CASES.items():
        for name in requests:
            taken = {stack: times[(stack, side), name] for stack in STACKS}
            results.update({f"{name}_{stack}": Figure(values, 2) for stack, values in taken.items()})
            results[f"{name}_ratio"] = Figure(taken["paddle3"] / taken["reference"], 2)
    return results


def main():
    """Compare the stacks and report."""
    flags = parser(__doc__)
    flags.set_defaults(repeats=15)
    for stack, python in STACKS.items():
        flags.add_argument(f"--{stack}", default=str(python), help=f"Python of the {stack} stack (default: {python})")
    arguments = flags.parse_args()
    print(machine())
    with ExitStack() as running:
        workers = start_workers({stack: getattr(arguments, stack) for stack in STACKS}, running)
        requests = {(stack, side): CASES[side][1] for stack, side in workers}
        results = summary(alternated(workers, requests, arguments.repeats))
    return report(results, arguments, __file__, tables(results))


if __name__ == "__main__":
    main()
