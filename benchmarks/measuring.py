"""What all benchmarks share: workers to time side by side, the machine's limits, the report."""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np


class Worker:
    """A side of a comparison in a process of its own, so that sides share neither memory nor a runtime's settings.

    It runs `script --worker side`, which answers requests by serve().
    """

    def __init__(self, script, side, *arguments):
        command = [sys.executable, script, "--worker", side, *map(str, arguments)]
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
def prepared_directory(script):
    """A temporary directory in which the script's worker "prepare" has written what its other sides read."""
    with tempfile.TemporaryDirectory() as directory:
        with Worker(script, "prepare", "--directory", directory) as worker:
            worker.ask()
        yield directory


def serve(answer):
    """Answer requests from stdin, one JSON object a line, by answer(**request) → dict; peak memory is added."""
    for line in sys.stdin:
        print(json.dumps({**answer(**json.loads(line)), "peak_mib": peak_mib()}), flush=True)


def peak_mib():
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(action):
    """Time that action() takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternated(workers, requests, repeats):
    """Median seconds by (side, name of the request): every repeat asks every worker for everything in turn.

    workers: {side: Worker}. requests: {side: {name: request}}. One round before the first warms up and is not counted.
    """
    times = {}
    for repeat in range(-1, repeats):
        for side, worker in workers.items():
            for name, request in requests[side].items():
                taken = worker.ask(**request)["seconds"]
                if repeat >= 0:
                    times.setdefault((side, name), []).append(taken)
    return {key: statistics.median(values) for key, values in times.items()}


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
    result.add_argument("--repeats", type=int, default=3, help="medians are of this many (default: 3)")
    result.add_argument("--worker", help=argparse.SUPPRESS)
    result.add_argument("--directory", help=argparse.SUPPRESS)
    return result


def report(results, as_json):
    """Print the results, a dict of figures, a line each; and as JSON if asked."""
    for name, value in results.items():
        print(f"{name:32s} {value}")
    if as_json:
        print(json.dumps(results))
