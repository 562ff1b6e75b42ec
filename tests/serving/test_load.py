"""Many clients of all kinds at once: nobody's text depends on the others, nothing is lost, memory does not grow."""

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

import predict_generation
from tests.helpers import ROOT
from tests.helpers.served import Served, events_of
from tests.serving.test_adapters import KINDS as ADAPTERS
from tests.serving.test_adapters import write_adapters

DEV = ROOT / "demo" / "qg" / "dev.json"
PAIRS = [json.loads(line) for line in DEV.read_text(encoding="utf8").splitlines()[:20]]
PROMPTS = [{"context": pair["context"], "answer": pair["answer"]} for pair in PAIRS]
LIMITS = ["--src_length", "128", "--tgt_length", "24"]
# Options, and the flags of prediction that ask for the same.
WAYS = {
    "greedy": ({}, []),
    "short": ({"tgt_length": 4}, ["--tgt_length", "4"]),
    "beams": ({"num_beams": 3, "length_penalty": 0.6}, ["--num_beams", "3", "--length_penalty", "0.6"]),
    "penalties": ({"repetition_penalty": 1.5}, ["--repetition_penalty", "1.5"]),
    "stops": ({"stop": ["什么", "多少"]}, ["--stop", "什么", "多少"]),
}


@pytest.fixture(scope="module")
def directories(briefly_trained, tmp_path_factory):
    return write_adapters(tmp_path_factory.mktemp("adapters"), briefly_trained)


@pytest.fixture(scope="module")
def predicted(briefly_trained, directories, tmp_path_factory):
    """{(adapter or None, way): texts of predict_generation.py}."""
    root, found = tmp_path_factory.mktemp("predicted"), {}
    (root / "data.json").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    for adapter in (None, *directories):
        for way, (_, flags) in WAYS.items():
            more = ["--lora_path", str(directories[adapter])] if adapter else []
            model = ["--model_name_or_path", str(briefly_trained), *more, *LIMITS, *flags]
            files = ["--data_file", str(root / "data.json"), "--output_file", str(root / "out")]
            predict_generation.main([*model, *files])
            lines = (root / "out").read_text(encoding="utf8").splitlines()
            found[adapter, way] = [json.loads(line)["prediction"] for line in lines]
    return found


@pytest.fixture(scope="module")
def server(briefly_trained, directories):
    flags = ["--lora", *(f"{name}={path}" for name, path in directories.items()), "--max_concurrent_requests", "400"]
    with Served("--model_name_or_path", briefly_trained, *LIMITS, *flags) as server:
        yield server


class Client:
    """A client that asks for one text in some way; the seed says which and how."""

    def __init__(self, server, seed):
        self.server, draw = server, random.Random(seed)
        self.number = draw.randrange(len(PROMPTS))
        self.adapter, self.way = draw.choice([None, *ADAPTERS]), draw.choice(list(WAYS))
        self.leaves = draw.random() < 0.2
        self.manner = draw.choice(["whole", "streamed", "openai"])

    def run(self):
        """The text, None of a client that leaves before it is there."""
        options = dict(WAYS[self.way][0])
        content = {**PROMPTS[self.number], **options, "model": self.adapter}
        if self.leaves:
            return self.leave({**content, "stream": True})
        if self.manner == "streamed":
            *pieces, (last, answer) = events_of(self.server.ask(**content, stream=True).text)
            assert last == "done"
            assert "".join(piece["text"] for _, piece in pieces) == answer["prediction"]
            return answer["prediction"]
        if self.manner == "openai":
            names = {"tgt_length": "max_tokens"}
            content = {names.get(name, name): value for name, value in content.items()}
            answer = httpx.post(f"{self.server.url}/v1/completions", json=content, timeout=300)
            return answer.json()["choices"][0]["text"]
        answer = self.server.ask(**content)
        assert answer.status_code == 200, answer.text
        return answer.json()["prediction"]

    def leave(self, content):
        """Send the request, read the beginning of what comes at most, and go."""
        body = json.dumps(content).encode()
        address = urlsplit(self.server.url)
        with socket.create_connection((address.hostname, address.port)) as connection:
            head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            if self.number % 2:
                connection.recv(100)


def test_200_clients_of_all_kinds_at_once_get_the_texts_of_prediction(server, predicted):
    before = server.metrics()
    clients = [Client(server, seed) for seed in range(400)]
    with ThreadPoolExecutor(200) as pool:
        texts = list(pool.map(lambda client: client.run(), clients))
    for client, text in zip(clients, texts, strict=True):
        if not client.leaves:
            assert text == predicted[client.adapter, client.way][client.number], vars(client)
    assert len({text for texts in predicted.values() for text in texts}) > 100
    after = settled(server)
    ended = {name: after[name] - before.get(name, 0) for name in after if name.startswith("glm_requests_total")}
    assert sum(ended.values()) == len(clients), "each request is counted, however it ended"
    assert ended['glm_requests_total{status="200"}'] >= sum(not client.leaves for client in clients)


def settled(server):
    """Metrics of a server once nothing is decoded any more."""
    while (found := server.metrics())["glm_requests_in_progress"] or found["glm_queue_length"]:
        pass
    return found


@pytest.mark.faults
def test_memory_does_not_grow_over_10_000_requests(server, predicted):
    process, sizes = psutil.Process(server.process.pid), []
    for part in range(10):
        with ThreadPoolExecutor(32) as pool:
            clients = [Client(server, 1000 * part + seed) for seed in range(1000)]
            texts = list(pool.map(lambda client: client.run(), clients))
        for client, text in zip(clients, texts, strict=True):
            assert client.leaves or text == predicted[client.adapter, client.way][client.number]
        settled(server)
        sizes.append(process.memory_info().rss / 2**20)
    # Of the first thousand some is kept: buffers, threads, compiled regular expressions.
    assert max(sizes[5:]) - sizes[1] < 20, sizes
