"""Serving: many clients at once, with continuous batching beside closed batches, short requests beside long ones, and
adapters beside one another.

    python benchmarks/bench_serve.py --write

A model of 6 layers, hidden size 512, 8 heads, vocabulary 50048 and random weights, prompts of about 60 tokens.
--clients clients ask in closed loops, --requests each, for outputs of 8 to 128 tokens (log-uniform, the same for each
way), of two servers in turn: --batching continuous, and --batching closed. Of closed batches, too, those whose limit
has come leave. Then, on the former, a request for 8 tokens alone and beside one for 160; 64 requests one after another
and at once; and the clients again on a server with 16 LoRA adapters, all asking for one of them and each for another.
Greedy; texts must be the same each time.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
from measuring import Figure, machine, parser, prepared_directory, report, seconds, serve

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT / "demo" / "qg" / "dev.json"
LEAST, MOST, LONG = 8, 128, 160
# At most so many tokens make a short request.
SHORT = 16
ADAPTERS = 16
REPORT = """
| Clients in closed loops, 8 to 128 tokens a request | continuous | closed |
|---|---|---|
| tokens a second | {continuous_tokens_per_second} | {closed_tokens_per_second} |
| seconds of requests of at most 16 tokens, median | {continuous_short_p50} | {closed_short_p50} |
| the same, of 100 the slowest 5 | {continuous_short_p95} | {closed_short_p95} |
| seconds of all requests, median | {continuous_p50} | {closed_p50} |

| Ratio | Figure |
|---|---|
| `throughput_vs_closed` | {throughput_vs_closed} |
| `short_p50_vs_closed` | {short_p50_vs_closed} |
| `short_beside_long_vs_alone` | {short_beside_long_vs_alone} |
| `at_once_vs_one_at_a_time` | {at_once_vs_one_at_a_time} |
| `sixteen_adapters_vs_one` | {sixteen_adapters_vs_one} |

A request for 8 tokens takes {short_alone_ms} ms alone and {short_beside_long_ms} ms beside one for 160; 64 requests for
32 tokens come at {one_at_a_time_requests_per_second} a second one after another and at {at_once_requests_per_second} at
once; with all clients on one of 16 adapters {one_adapter_tokens_per_second} tokens a second.
"""


def prepare(directory):
    """Write the model with a tokenizer, and adapters of it."""
    from bench_decode import SMALL, save_model

    from glm.data import tokenization
    from glm.weights import builtin_model

    (directory / "model").mkdir()
    save_model(directory / "model", SMALL)
    tokenization.copy(builtin_model.build(), directory / "model")
    for number in range(ADAPTERS):
        save_adapter(directory, number)


def save_adapter(directory, number):
    """Write an adapter of the model, as LoRA's defaults shape it."""
    import paddle

    from glm.model.lora import LoraConfig, add_lora, lora_parameters
    from glm.weights import adapters, model_directory

    fingerprint, config = {}, LoraConfig()
    model = add_lora(model_directory.load_model(directory / "model", fingerprint=fingerprint), config)
    for place, factor in enumerate(lora_parameters(model).values()):
        value = 0.05 * np.random.default_rng([number, place]).standard_normal(factor.shape)
        factor.set_value(paddle.to_tensor(value.astype("float32")))
    (directory / f"adapter{number}").mkdir()
    adapter = adapters.Adapter(model, config, str(directory / "model"), fingerprint)
    adapter.save(directory / f"adapter{number}", adapter.tensors())


@contextmanager
def server(directory, *flags):
    """The address of a running server, which is stopped in the end."""
    command = [sys.executable, str(ROOT / "serve_generation.py"), "--model_name_or_path", str(directory / "model")]
    command += ["--port", "0", "--tgt_length", str(LONG), *flags]
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


def ask(url, prompt, tokens, model=None):
    """The text of a request for so many tokens."""
    content = {**prompt, "tgt_length": tokens, "min_tgt_length": tokens - 1, "model": model}
    request = urllib.request.Request(f"{url}/generate", json.dumps(content).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    assert answer["tokens"] == tokens
    return answer["prediction"]


def read_prompts(count):
    """So many prompts, distinct as far as there are."""
    records = [json.loads(line) for line in DEV.read_text(encoding="utf8").splitlines()]
    return [{name: records[i % len(records)][name] for name in ("context", "answer")} for i in range(count)]


def lengths(clients, requests):
    """Tokens of each request, [clients, requests]."""
    drawn = np.random.default_rng(1).uniform(np.log(LEAST), np.log(MOST), [clients, requests])
    return np.rint(np.exp(drawn)).astype(int)


def loaded(url, wanted, models=None):
    """What clients see that ask in closed loops: (tokens a second, seconds [clients, requests], texts). wanted: tokens
    [clients, requests]. models: the name that each client asks for."""
    clients, requests = wanted.shape
    prompts, taken, texts = read_prompts(wanted.size), np.zeros(wanted.shape), {}

    def client(number):
        for i in range(requests):
            start = time.perf_counter()
            place = number * requests + i
            texts[place] = ask(url, prompts[place], int(wanted[number, i]), models and models[number])
            taken[number, i] = time.perf_counter() - start

    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    whole = seconds(lambda: ([thread.start() for thread in threads], [thread.join() for thread in threads]))
    assert len(texts) == wanted.size
    return wanted.sum() / whole, taken, texts


def batchings(directory, wanted, repeats):
    """Figures of both ways of batching, and their ratios."""
    found, texts = {"continuous": [], "closed": []}, []
    with ExitStack() as stack:
        urls = {kind: stack.enter_context(server(directory, "--batching", kind)) for kind in found}
        for repeat in range(repeats + 1):
            for kind, url in urls.items():
                # The first round warms up.
                measured = loaded(url, wanted if repeat else wanted[:, :1])
                texts += [measured[2]] if repeat else []
                found[kind] += [measured] if repeat else []
    assert all(one == texts[0] for one in texts)
    short, results = wanted <= SHORT, {}
    medians = {}
    for kind, rounds in found.items():
        speed = np.array([one[0] for one in rounds])
        medians[kind] = np.array([np.median(one[1][short]) for one in rounds])
        slow = [np.quantile(one[1][short], 0.95) for one in rounds]
        results |= {
            f"{kind}_tokens_per_second": Figure(speed),
            f"{kind}_short_p50": Figure(medians[kind], 2),
            f"{kind}_short_p95": Figure(slow, 2),
            f"{kind}_p50": Figure([np.median(one[1]) for one in rounds], 2),
        }
        medians[f"{kind} speed"] = speed
    return results | {
        "throughput_vs_closed": Figure(medians["continuous speed"] / medians["closed speed"], 2),
        "short_p50_vs_closed": Figure(medians["continuous"] / medians["closed"], 3),
    }


def besides(directory, repeats):
    """Figures of a short request alone and beside a long one, and of many one after another and at once."""
    prompts, alone, beside, singly, at_once = read_prompts(64), [], [], [], []
    with server(directory) as url, ThreadPoolExecutor(64) as pool:

        def short():
            ask(url, prompts[0], LEAST)

        def many():
            list(pool.map(lambda prompt: ask(url, prompt, 32), prompts))

        for _ in range(repeats + 1):
            alone.append(seconds(short, 5))
            long = pool.submit(ask, url, prompts[1], LONG)
            time.sleep(0.1)
            beside.append(seconds(short, 5))
            assert not long.done()
            long.result()
            singly.append(seconds(lambda: [ask(url, prompt, 32) for prompt in prompts]))
            at_once.append(seconds(many))
    alone, beside, singly, at_once = (np.array(one[1:]) for one in (alone, beside, singly, at_once))
    return {
        "short_alone_ms": Figure(1000 * alone),
        "short_beside_long_ms": Figure(1000 * beside),
        "short_beside_long_vs_alone": Figure(beside / alone, 2),
        "one_at_a_time_requests_per_second": Figure(len(prompts) / singly, 2),
        "at_once_requests_per_second": Figure(len(prompts) / at_once, 2),
        "at_once_vs_one_at_a_time": Figure(singly / at_once, 2),
    }


def of_adapters(directory, wanted, repeats):
    """Figures of a load on many adapters, and on one of them."""
    names = [f"adapter{number}" for number in range(ADAPTERS)]
    flags = ["--lora", *(f"{name}={directory / name}" for name in names)]
    ways = {"one": [names[0]] * len(wanted), "all": [names[i % ADAPTERS] for i in range(len(wanted))]}
    speeds = {way: [] for way in ways}
    with server(directory, *flags) as url:
        for repeat in range(repeats + 1):
            for way, models in ways.items():
                speed, _, _ = loaded(url, wanted if repeat else wanted[:, :1], models)
                speeds[way] += [speed] if repeat else []
    one, every = (np.array(speeds[way]) for way in ("one", "all"))
    return {
        "one_adapter_tokens_per_second": Figure(one),
        "sixteen_adapters_vs_one": Figure(every / one, 2),
    }


def main():
    """Measure all and report."""
    flags = parser(__doc__)
    flags.add_argument("--clients", type=int, default=64, help="how many ask at once (default: 64)")
    flags.add_argument("--requests", type=int, default=6, help="requests of each client (default: 6)")
    arguments = flags.parse_args()
    if arguments.worker:
        return serve(lambda: prepare(Path(arguments.directory)) or {})
    print(machine())
    wanted = lengths(arguments.clients, arguments.requests)
    with prepared_directory(__file__) as name:
        directory = Path(name)
        results = batchings(directory, wanted, arguments.repeats)
        results |= besides(directory, arguments.repeats)
        results |= of_adapters(directory, wanted, arguments.repeats)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
