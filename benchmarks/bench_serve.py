"""Serving: requests that come together, which the server decodes in batches, against one request at a time.

    python benchmarks/bench_serve.py --json

A server of a model of 6 layers, hidden size 512, 8 heads, vocabulary 50048 and random weights answers --requests
distinct prompts, 32 new tokens each: one after another by one client, and by as many clients at once, with up to 8
prompts of 608 tokens (and so some 40 of these, about 60 tokens long) in a batch. Both ways take turns on the same
server, over connections of their own; the greedy texts must be the same.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from measuring import Figure, machine, parser, prepared_directory, report, seconds, serve

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT / "demo" / "qg" / "dev.json"
NEW = 32
REPORT = """
| Key | Figure |
|---|---|
| `one_at_a_time_requests_per_second` | {one_at_a_time_requests_per_second} |
| `one_at_a_time_ms_a_request` | {one_at_a_time_ms_a_request} |
| `at_once_requests_per_second` | {at_once_requests_per_second} |
| `at_once_tokens_per_second` | {at_once_tokens_per_second} |
| `batches_at_once`: the request that comes first, then what has come meanwhile | {batches_at_once} |
| `at_once_vs_one_at_a_time` | {at_once_vs_one_at_a_time} |
"""


def prepare(directory):
    """Write the model with a tokenizer."""
    from bench_decode import SMALL, save_model

    from glm.data import tokenization
    from glm.weights import builtin_model

    save_model(directory, SMALL)
    tokenization.copy(builtin_model.build(), directory)


@contextmanager
def server(directory):
    """The address of a running server, which is stopped in the end."""
    flags = ["--port", "0", "--tgt_length", str(NEW), "--min_tgt_length", str(NEW - 1)]
    command = [sys.executable, str(ROOT / "serve_generation.py"), "--model_name_or_path", str(directory), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[-1]
        while not is_ready(url):
            time.sleep(0.1)
        yield url
        process.terminate()


def is_ready(url):
    """Whether the server has loaded its model."""
    try:
        with urllib.request.urlopen(f"{url}/healthz") as response:
            return response.status == 200
    except urllib.error.HTTPError:
        return False


def ask(url, content):
    """The answer to a request, a dict."""
    request = urllib.request.Request(f"{url}/generate", json.dumps(content).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def read_prompts(count):
    """So many distinct prompts."""
    records = [json.loads(line) for line in DEV.read_text(encoding="utf8").splitlines()[:count]]
    return [{"context": record["context"], "answer": record["answer"]} for record in records]


def batches_of(url):
    """How many batches the server has decoded so far."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("glm_batch_size_count"))


def compare(url, prompts, repeats):
    """The figures of the report: medians of `repeats` rounds after one that warms up."""
    alone, together, batches, answers = [], [], [], {}

    def one_at_a_time():
        answers["alone"] = [ask(url, prompt) for prompt in prompts]

    def at_once():
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers["together"] = list(pool.map(lambda prompt: ask(url, prompt), prompts))

    for _ in range(repeats + 1):
        alone.append(seconds(one_at_a_time))
        before = batches_of(url)
        together.append(seconds(at_once))
        batches.append(batches_of(url) - before)
        assert answers["alone"] == answers["together"]
    one, many = np.array(alone[1:]), np.array(together[1:])
    return {
        "one_at_a_time_requests_per_second": Figure(len(prompts) / one, 2),
        "at_once_requests_per_second": Figure(len(prompts) / many, 2),
        "at_once_tokens_per_second": Figure(len(prompts) * NEW / many),
        "one_at_a_time_ms_a_request": Figure(1000 * one / len(prompts)),
        "batches_at_once": Figure(batches[1:]),
        "at_once_vs_one_at_a_time": Figure(one / many, 2),
    }


def main():
    """Compare both ways and report."""
    flags = parser(__doc__)
    flags.add_argument("--requests", type=int, default=64, help="how many there are (default: 64)")
    arguments = flags.parse_args()
    if arguments.worker:
        return serve(lambda: prepare(arguments.directory) or {})
    print(machine())
    with prepared_directory(__file__) as directory, server(directory) as url:
        results = compare(url, read_prompts(arguments.requests), arguments.repeats)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
