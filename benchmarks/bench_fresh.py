"""The two commands of the README in fresh clones of this repository, one for each Python: what is committed here, in an
environment that is made for it.

    python benchmarks/bench_fresh.py --write
    python benchmarks/bench_fresh.py --write --pythons 3.13

Needs network, for `make setup` installs; 12 minutes a Python. Of Pythons that are not asked for, the lines stay as they
are. Exits with 1 if a command failed, after all of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  for OMP_NUM_THREADS

import os
import re
import subprocess
import tempfile
import time

from measuring import DOCUMENT, Figure, machine, parser, report

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
COMMANDS = ("setup", "demo", "test")
# Variables of this process that a user's shell does not have.
OURS = ("OMP_", "FLAGS_", "GLM_", "VIRTUAL_")
REPORT = """
Seconds of each command:

| Python | stack | `make setup` | `make demo` | `make test` | result of the tests | commit |
|---|---|---|---|---|---|---|
{ROWS}
"""


def tables(pythons, before=""):
    """REPORT with a row for each of PYTHONS, of those not measured the one of the document before."""
    rows = {python: row for row, python in re.findall(r"^(\| (3\.\d+) \|.*)$", before, re.M)}
    columns = ("stack", *COMMANDS, "result", "commit")
    rows |= {python: row_of([python, *(f"{{{name}_{key(python)}}}" for name in columns)]) for python in pythons}
    return REPORT.replace("{ROWS}", "\n".join(rows[python] for python in PYTHONS if python in rows))


def row_of(cells):
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def key(python):
    """A version of Python as part of a result's name."""
    return python.replace(".", "_")


def make(target, python, clone):
    """(seconds, output, exit code) of a target of the Makefile in a clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    start = time.perf_counter()
    done = subprocess.run(
        ["make", target, f"PYTHON=python{python}"],
        cwd=clone,
        env={**kept, "GLM_CACHE_DIR": str(clone / ".cache")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return time.perf_counter() - start, done.stdout, done.returncode


def measured(python, clone):
    """Results of the commands with one Python, by name, and whether all of them succeeded."""
    results, sound = {}, True
    for target in COMMANDS:
        taken, said, code = make(target, python, clone)
        sound = sound and code == 0
        results[target] = Figure(taken) if code == 0 else f"failed ({code})"
        print(python, target, results[target], *re.findall(r"^(?:FAILED|ERROR) .*", said, re.M), sep="\n  ", flush=True)
        if target == "test":
            summary = re.findall(r"^=* ?(\d+ (?:passed|failed).*?) in [\d.]+s", said, re.M)
            results["result"] = re.sub(r", \d+ warnings?", "", summary[-1]) if summary else said[-200:]
    results["stack"] = (clone / ".venv" / ".stack").read_text().strip()
    return results, sound


def main():
    """Measure all and report."""
    flags = parser(__doc__)
    flags.add_argument("--pythons", nargs="+", default=PYTHONS, help=f"Pythons (default: {' '.join(PYTHONS)})")
    arguments = flags.parse_args()
    print(machine())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    results, sound = {}, True
    for python in arguments.pythons:
        with tempfile.TemporaryDirectory() as directory:
            clone = Path(directory) / "clone"
            subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
            found, good = measured(python, clone)
        found["commit"] = commit.stdout.strip()
        results |= {f"{name}_{key(python)}": value for name, value in found.items()}
        sound = sound and good
    _, _, before = DOCUMENT.read_text(encoding="utf8").partition("<!-- figures: bench_fresh.py -->")
    report(results, arguments, __file__, tables(arguments.pythons, before.partition("<!-- end")[0]))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
