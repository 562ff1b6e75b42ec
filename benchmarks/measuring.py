"""What all benchmarks share: workers to time side by side, the machine's limits, figures and where they are written.

A benchmark's REPORT is Markdown with the names of its results in braces. With --write it takes the place of what stands
between the benchmark's two marks in BENCHMARKS.md, under the date and the machine.
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "BENCHMARKS.md"


class Figure:
    """What was measured several times: the median, and between which values it lay.

    values: one number a repetition. digits: decimal places to show.
    """

    def __init__(self, values, digits=0):
        values = np.asarray(values, dtype=float).reshape(-1)
        self.median, self.low, self.high = np.median(values), values.min(), values.max()
        self.digits = digits

    def __str__(self):
        median, low, high = (f"{value:.{self.digits}f}" for value in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low}–{high})"

    def as_json(self):
        """The figure for --json."""
        names = ("median", "low", "high")
        return {name: round(float(getattr(self, name)), self.digits or None) for name in names}


class Worker:
    """A side of a comparison in a process of its own, so that sides share neither memory nor a runtime's settings.

    It runs `script --worker side`, which answers requests by serve(), by this interpreter or the one of `python`.
    """

    def __init__(self, script, side, *arguments, python=sys.executable):
        command = [python, script, "--worker", side, *map(str, arguments)]
        self.side = side
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        """The worker's answer to a request, a dict. Raises RuntimeError if it died."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the worker for {self.side} died with code {self.process.wait()}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def prepared_directory(script, python=sys.executable):
    """A temporary directory in which the script's worker "prepare" has written what its other sides read."""
    with tempfile.TemporaryDirectory() as directory:
        with Worker(script, "prepare", "--directory", directory, python=python) as worker:
            worker.ask()
        yield directory


def serve(answer):
    """Answer requests from stdin, one JSON object a line, by answer(**request) → dict; peak memory is added."""
    for line in sys.stdin:
        print(json.dumps({**answer(**json.loads(line)), "peak_mib": peak_mib()}), flush=True)


def peak_mib():
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(action, times=1):
    """Time that action() takes, the median of so many times: a process that has slept for a while is slow at first."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def run(command):
    """(seconds, peak MiB) of a command with all its processes. Raises RuntimeError with what it said if it fails."""
    environment = dict(os.environ)
    # What each process may use it finds out itself.
    del environment["OMP_NUM_THREADS"]
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        taken = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{said.read().decode(errors='replace')[-2000:]}")
    return taken, usage.ru_maxrss / 1024


def alternated(workers, requests, repeats):
    """Seconds [repeats] by (side, name of the request): every repeat asks every worker for everything in turn.

    workers: {side: Worker}. requests: {side: {name: request}}. One round before the first warms up and is not counted.
    """
    times = {}
    for repeat in range(-1, repeats):
        for side, worker in workers.items():
            for name, request in requests[side].items():
                taken = worker.ask(**request)["seconds"]
                if repeat >= 0:
                    times.setdefault((side, name), []).append(taken)
    return {key: np.array(values) for key, values in times.items()}


def array_copier():
    """A function with which the cores together copy arrays far larger than caches, and the bytes that it reads and
    writes."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    sources = [np.ones(2**26, dtype="float32") for _ in range(threads)]
    targets = [np.empty_like(array) for array in sources]
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.copyto, targets, sources)), 2 * sum(array.nbytes for array in sources)


def machine():
    """The machine in one line."""
    with open("/proc/cpuinfo", encoding="utf8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith(("model name", "cpu family"))]
    cores = os.environ["OMP_NUM_THREADS"]
    return f"{cores} threads of {names[1]}, family {names[0]}; Python {platform.python_version()}"


def parser(description):
    """Flags that all benchmarks have."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", action="store_true", help="print one JSON object with the results last")
    result.add_argument("--write", action="store_true", help="write the figures into BENCHMARKS.md")
    result.add_argument("--repeats", type=int, default=3, help="how often each is measured (default: 3)")
    result.add_argument("--worker", help=argparse.SUPPRESS)
    result.add_argument("--directory", help=argparse.SUPPRESS)
    return result


def report(results, arguments, script, template):
    """Print the results, a dict of Figures and other values, a line each; and what else the flags ask for.

    script: path of the benchmark. template: its REPORT.
    """
    for name, value in results.items():
        print(f"{name:40s} {value}")
    if arguments.write:
        when = f"Measured on {datetime.date.today()}: {machine()}."
        text = DOCUMENT.read_text(encoding="utf8")
        DOCUMENT.write_text(
            replaced(text, Path(script).name, f"{when}\n\n{filled(template, results)}"), encoding="utf8"
        )
    if arguments.json:
        print(json.dumps(results, default=Figure.as_json))


def filled(template, results):
    """A template with results in the place of their names; rows of tables of which one is missing are left out."""
    lines = []
    for line in template.strip().splitlines():
        if all(name in results for name in re.findall(r"{(\w+)}", line)):
            lines.append(line.format_map(results))
    return "\n".join(lines)


def replaced(text, script, report):
    """A document in which `report` stands between the marks of a script. Raises ValueError if it has none."""
    begin, end = f"<!-- figures: {script} -->\n", "\n<!-- end of figures -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"BENCHMARKS.md has no place for {script}: {begin.strip()} … {end.strip()}")
    return f"{before}{begin}\n{report}\n{end}{after}"
