"""What becomes of requests at the limits: too many, too slow, left alone, a model that fails."""

import asyncio
import json
import signal
import threading

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.decoding.generation_config import GenerationConfig, SpecialIds
from glm.serving import exchanges, forms
from glm.serving.app import make_app
from glm.serving.catalogue import Catalogue
from glm.serving.closed import Closed
from glm.serving.engine import Engine
from glm.serving.exchanges import Service
from glm.serving.requests import Limits, Offer
from glm.weights import builtin_model, model_directory
from tests.helpers.served import Served, events_of


class Paced:
    """A Service whose engine answers with the numbers 5, 6, 7 and the end, once `go` is set."""

    def __init__(self, *, fails=False, **limits):
        self.go, self.load, self.fails = threading.Event(), threading.Event(), fails
        tokenizer = model_directory.load_tokenizer(model_directory.resolve(builtin_model.NAME))
        self.end = tokenizer.eop_id
        self.special = SpecialIds.of(tokenizer, 100)
        self.engine = Engine(self.loaded)
        limits = {"max_bytes": 10000, "max_requests": 2, "timeout": 30.0, **limits}
        self.service = Service(
            self.engine, Catalogue("glm", Offer(tokenizer, GenerationConfig(), Limits(4, 100, 64))), **limits
        )
        transport = httpx.ASGITransport(make_app(self.service), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
        self.engine.start()

    def loaded(self):
        self.load.wait()
        return Closed(self.decode, self.special, budget=1000)

    def decode(self, prompts, config, rows, on_token):
        self.go.wait()
        if self.fails:
            raise RuntimeError("out of luck")
        ids = np.array([5, 6, 7, self.end])
        for piece in ids:
            on_token(np.arange(len(rows)), np.full(len(rows), piece))
        return np.tile(ids, [len(rows), 1])

    async def ask(self, **content):
        return await self.client.post("/generate", json={"source": "你好", **content})

    async def ready(self):
        self.load.set()
        while self.engine.state == "loading":
            await asyncio.sleep(0.01)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        self.go.set()
        self.load.set()
        await asyncio.to_thread(self.engine.close, 10)
        await self.client.aclose()


def test_requests_beyond_the_limit_are_told_to_come_back():
    async def scenario():
        async with Paced() as paced:
            await paced.ready()
            first, second = asyncio.create_task(paced.ask()), asyncio.create_task(paced.ask())
            while len(paced.service.open) < 2:
                await asyncio.sleep(0.01)
            refused = await paced.ask()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert "try again" in refused.json()["error"]["message"]
            paced.go.set()
            assert {(await first).status_code, (await second).status_code} == {200}
            assert (await paced.ask()).status_code == 200
            metrics = (await paced.client.get("/metrics")).text
            assert 'glm_requests_total{status="429"} 1' in metrics
            assert 'glm_requests_total{status="200"} 3' in metrics

    asyncio.run(scenario())


def streamed(service, receive, send):
    """The app's run on a request for a stream."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/generate", "raw_path": b"/generate", "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1", "client": ("::1", 1)}
    return make_app(service)(scope, receive, send)


def test_a_stream_that_has_nothing_to_say_sends_comments_and_no_proxy_keeps_anything():
    async def scenario():
        body, sent = json.dumps({"source": "你好", "stream": True}).encode(), []
        async with Paced(comment_after=0.001) as paced:
            requests = iter([{"type": "http.request", "body": body}])

            async def receive():
                for request in requests:
                    return request
                return await asyncio.Event().wait()

            async def send(message):
                sent.append(message)
                # Nothing is decoded before there were three comments.
                if len(sent) == 4:
                    paced.go.set()

            await paced.ready()
            await streamed(paced.service, receive, send)
        head, *parts = sent
        assert {part["body"] for part in parts[:3]} == {exchanges.COMMENT}
        headers = dict(head["headers"])
        assert headers[b"x-accel-buffering"] == b"no"
        assert headers[b"cache-control"] == b"no-store, no-transform"
        text = b"".join(part["body"] for part in parts).decode()
        assert all(line.startswith((":", "event: ", "data: ")) for line in text.split("\n") if line)
        assert [event for event, _ in events_of(text)][-1] == "done"

    asyncio.run(scenario())


def test_a_stream_that_has_something_to_say_has_no_comments():
    async def scenario():
        async with Paced() as paced:
            await paced.ready()
            paced.go.set()
            assert ":" not in {line[:1] for line in (await paced.ask(stream=True)).text.split("\n")}

    asyncio.run(scenario())


@given(st.text(st.sampled_from('你a\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n"\\')))
def test_an_events_data_is_one_line_however_a_client_splits_lines(text):
    event, data, end = forms.event("piece", {"text": text}).decode().splitlines()
    assert (event, end) == ("event: piece", "")
    assert json.loads(data.removeprefix("data: ")) == {"text": text}


def test_nothing_is_accepted_while_loading_or_stopping():
    async def scenario():
        async with Paced() as paced:
            assert (await paced.ask()).status_code == 503
            health = await paced.client.get("/healthz")
            assert (health.status_code, health.json()) == (503, {"status": "loading"})
            await paced.ready()
            assert (await paced.client.get("/healthz")).json() == {"status": "ok"}
            paced.engine.stop()
            refused = await paced.ask()
            assert (refused.status_code, refused.json()["error"]["message"]) == (503, "the server is stopping")

    asyncio.run(scenario())


def test_a_request_that_takes_too_long_is_given_up_and_frees_its_place():
    async def scenario():
        async with Paced(timeout=0.05) as paced:
            await paced.ready()
            late, streamed = await paced.ask(), await paced.ask(stream=True)
            assert late.status_code == 504
            ((event, content),) = events_of(streamed.text)
            assert (event, content["error"]["status"]) == ("error", 504)
            assert not paced.service.open

    asyncio.run(scenario())


def test_a_failure_of_the_model_is_that_of_its_batch():
    async def scenario():
        async with Paced(fails=True) as paced:
            await paced.ready()
            paced.go.set()
            assert (await paced.ask()).status_code == 500
            ((event, content),) = events_of((await paced.ask(stream=True)).text)
            assert (event, content["error"]["status"]) == ("error", 500)
            paced.fails = False
            assert (await paced.ask()).status_code == 200

    asyncio.run(scenario())


def test_what_nobody_waits_for_and_what_takes_too_long_after_a_signal_is_given_up():
    # A thousand steps in Python take seconds on any machine; an ONNX program's may be done within the waits here.
    long = ["--engine", "python", "--tgt_length", "1024", "--min_tgt_length", "1000", "--src_length", "64"]
    long += ["--stop_timeout", "0.2"]
    with Served("--model_name_or_path", builtin_model.NAME, *long) as server:
        with httpx.stream("POST", f"{server.url}/generate", json={"source": "你好", "stream": True}) as stream:
            next(stream.iter_raw())
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/generate", json={"source": "你好"}, timeout=httpx.Timeout(60, read=0.3))
        while server.metrics()["glm_requests_in_progress"]:
            pass
        assert server.metrics()['glm_requests_total{status="499"}'] == 2
        assert server.ask(source="你好", tgt_length=20, min_tgt_length=0).json()["tokens"] == 20
        assert server.metrics()["glm_prompts_total"] == 1, "what nobody waits for is not decoded to its end"

        with httpx.stream("POST", f"{server.url}/generate", json={"source": "你好", "stream": True}) as stream:
            chunks = stream.iter_raw()
            started = next(chunks)
            server.process.send_signal(signal.SIGINT)
            *_, (last, content) = events_of((started + b"".join(chunks)).decode())
        assert (last, content["error"]["status"]) == ("error", 503)
        assert server.process.wait(timeout=60) == 1
        assert server.process.stderr.read().endswith("1 requests were not finished within 0.2 s of the signal\n")
