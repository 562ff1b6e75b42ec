"""Below requests: connections that say nothing, bodies that never end, clients that stop reading, pages of others. None
of them keeps anybody else from an answer."""

import asyncio
import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest

from glm.decoding.generation_config import GenerationConfig, SpecialIds
from glm.serving import logs
from glm.serving.app import Server
from glm.serving.catalogue import Catalogue
from glm.serving.closed import Closed
from glm.serving.connections import Connections
from glm.serving.engine import Engine
from glm.serving.exchanges import Service
from glm.serving.origins import Origins
from glm.serving.requests import Limits, Offer
from glm.weights import builtin_model, model_directory
from tests.helpers import ROOT


class Stepped:
    """A real server on a port, whose engine makes a step of 64 pieces when it is told to."""

    def __init__(self, **limits):
        self.steps, self.made, self.beating = threading.Semaphore(0), 0, True
        tokenizer = model_directory.load_tokenizer(builtin_model.NAME)
        special = SpecialIds.of(tokenizer, 100)
        self.engine = Engine(lambda: Closed(self.decode, special, budget=10**6))
        settings = {"max_bytes": 10000, "max_requests": 100, "timeout": 60.0, **limits}
        config = GenerationConfig(max_new_tokens=4000)
        self.service = Service(self.engine, Catalogue("glm", Offer(tokenizer, config, Limits(64, 100, 64))), **settings)

    def decode(self, prompts, config, rows, on_token):
        ids = np.full([len(rows), config.max_new_tokens], 9)
        for number in range(config.max_new_tokens):
            self.steps.acquire()
            self.made += 1
            on_token(np.arange(len(rows)), ids[:, number])
        return ids

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        self.engine.start()
        self.server = Server(self.service)
        self.server.install_signal_handlers = lambda: None
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.port}"
        while self.health() != 200:
            time.sleep(0.02)
        return self

    async def run(self):
        running = asyncio.create_task(self.server.serve(sockets=[self.socket]))
        while not running.done():
            self.service.connections.sweep()
            await asyncio.sleep(0.01)

    def __exit__(self, *exception):
        self.server.should_exit = self.server.force_exit = True
        for _ in range(5000):
            self.steps.release()
        self.engine.close(10)
        self.thread.join(10)

    def beats(self, count, seconds):
        """Let the engine make so many steps, one every so many seconds."""
        for _ in range(count):
            if self.beating:
                time.sleep(seconds)
                self.steps.release()

    def health(self):
        # Not by httpx, whose clients take 50 ms to be made.
        one = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            one.request("GET", "/healthz")
            return one.getresponse().status
        except ConnectionError:
            return None
        finally:
            one.close()

    def connect(self):
        one = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return one

    def stream(self, prompts=64):
        """A connection with a streamed request that nobody reads."""
        one = self.connect()
        body = json.dumps({"prompts": ["你好"] * prompts, "stream": True}).encode()
        one.sendall(head(len(body)) + body)
        return one


def head(length):
    """What a request with a body of so many bytes begins with."""
    lines = [
        "POST /generate HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def closed(one):
    """Whether the other side closes a connection."""
    one.settimeout(20)
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_clients_that_do_not_read_hold_nobody_up():
    """In beats of the engine: each of its steps takes 10 ms, whatever the loop does meanwhile, and the loop answers."""
    with Stepped() as server:
        stalled = [server.stream() for _ in range(8)]
        wait_until(lambda: len(server.service.open) == 8 and server.engine.running)
        beat, at = threading.Timer(0, server.beats, [600, 0.01]), []
        beat.start()
        while len(at) < 40:
            assert server.health() == 200
            at.append(server.made)
        server.beating = False
        beat.join()
        gaps = np.diff(at)
        assert np.median(gaps) <= 5, gaps
        assert at[-1] > 0
        # What waits for those who do not read is ids, once each.
        waiting = [exchange.inbox.pieces for exchange in server.service.open]
        assert max((len(ids) for pieces in waiting for ids in pieces.values()), default=0) <= server.made
        for one in stalled:
            one.close()
        wait_until(lambda: not server.service.open)


def test_a_client_that_leaves_is_left_before_anything_is_made_for_it():
    with Stepped() as server:
        one = server.stream()
        wait_until(lambda: server.engine.running)
        server.steps.release(30)
        wait_until(lambda: server.made == 30)
        one.close()
        wait_until(lambda: not server.service.open)


def test_connections_that_say_nothing_are_closed():
    with Stepped(connections=Connections(100, 100, 0.3, 0.3)) as server:
        silent, dripping, served = (server.connect() for _ in range(3))
        dripping.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        served.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert served.recv(15) == b"HTTP/1.1 200 OK"
        assert closed(silent)
        assert closed(dripping)
        while served.recv(4096):
            pass
        assert not server.service.connections.by_client


def test_a_crowd_that_says_nothing_keeps_nobody_out():
    with Stepped(connections=Connections(20, 10, 30.0, 30.0)) as server:
        crowd = [server.connect() for _ in range(60)]
        for _ in range(5):
            assert server.health() == 200
        assert len(server.service.connections.by_client) <= 10
        assert closed(crowd[0])


def test_what_is_being_answered_is_not_closed_for_others():
    with Stepped(connections=Connections(6, 6, 30.0, 30.0)) as server:
        streams = [server.stream(1) for _ in range(4)]
        wait_until(lambda: len(server.service.open) == 4)
        for _ in range(20):
            server.connect()
        assert server.health() == 200
        assert len(server.service.open) == 4
        assert all(not closed_now(one) for one in streams)


def closed_now(one):
    one.setblocking(False)
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


def test_bodies_that_never_end_take_nobodys_place_and_end():
    with Stepped(max_requests=3, body_timeout=1.0) as server:
        crowd = [server.connect() for _ in range(40)]
        for one in crowd:
            one.sendall(head(100) + b"{")
        for _ in range(4000):
            server.steps.release()
        answer = httpx.post(f"{server.url}/generate", json={"source": "你好", "tgt_length": 3}, timeout=30)
        assert answer.status_code == 200
        assert b" 408 " in crowd[0].recv(100)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost", None, 200),
        ("127.0.0.1:8000", None, 200),
        ("[::1]:8000", None, 200),
        ("192.168.7.7", None, 200),
        ("model.example", None, 200),
        ("MODEL.example:80", None, 200),
        ("evil.example", None, 403),
        ("evil.example:8000", "http://evil.example:8000", 403),
        ("localhost.evil.example", None, 403),
        ("127.0.0.1.evil.example", None, 403),
        ("", None, 403),
        ("localhost:8000", "http://localhost:8000", 200),
        ("localhost:8000", "http://localhost:9000", 403),
        ("localhost", "https://evil.example", 403),
        ("localhost", "null", 403),
        ("localhost", "https://model.example", 200),
        ("localhost", "http://[", 403),
    ],
)
def test_hosts_and_pages_are_those_that_the_operator_names(host, origin, status):
    assert (Origins(["model.example"]).objection(host, origin) is None) == (status == 200)


def test_any_host_may_be_allowed():
    assert Origins(["*"]).objection("evil.example", "https://other.example") is None


def test_a_strange_host_gets_an_error_and_no_answer():
    with Stepped() as server:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            for method, path in (("GET", "/"), ("POST", "/generate"), ("GET", "/metrics")):
                answer = httpx.request(method, server.url + path, headers=headers)
                assert answer.status_code == 403
                flag = "--allowed_hosts" if "Host" in headers else "--allowed_origins"
                assert flag in answer.json()["error"]["message"]


def test_the_log_has_so_many_lines_and_no_more():
    now = [0.0]
    throttle = logs.Throttle(clock=lambda: now[0])
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "Too many open files %d", (3,), None)
    assert sum(throttle.filter(record) for _ in range(10_000)) == logs.MOST
    now[0] += logs.SECONDS + 1
    assert throttle.filter(record)
    assert record.getMessage() == f"Too many open files 3 ({10_000 - logs.MOST} entries before it left out)"


def test_the_log_obeys_no_terminal():
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "a\x1b[2J\x9b1m\u2028\nb", (), None)
    assert logs.PlainFormatter().format(record) == "a\\x1b[2J\\x9b1m\\u2028\nb"


@pytest.mark.parametrize("error", ["SystemExit(1)", "KeyboardInterrupt()", "GeneratorExit()", "BaseException('x')"])
def test_what_ends_the_engines_thread_ends_the_server_and_is_told(error):
    """In a process of its own, as the server that fails."""
    code = f"""
import glm.runtime
import serve_generation
from glm.decoding.generation_config import SpecialIds
from glm.export import engines

class Engine:
    special = SpecialIds(1, 2, 3, ())

    def run(self, *arguments):
        raise {error}

engines.opened = lambda *arguments, **more: Engine()
serve_generation.main(["--model_name_or_path", "glm-tiny-chinese", "--port", "0", "--tgt_length", "4"])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    url = process.stdout.readline().split()[-1]
    while httpx.get(f"{url}/healthz").status_code != 200:
        time.sleep(0.05)
    answer = httpx.post(f"{url}/generate", json={"source": "你好"}, timeout=30)
    assert answer.status_code == 500
    process.communicate(timeout=30)
    assert process.returncode != 0


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), RuntimeError(), MemoryError()])
def test_an_engine_says_ok_only_while_it_decodes(error):
    from tests.serving.test_engine import END, PAD, SPECIAL, make_job

    calls = []

    def decode(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise error
        return np.array([[5, END, PAD, PAD, PAD]])

    engine = Engine(lambda: Closed(decode, SPECIAL, 1000))
    engine.start()
    wait_until(lambda: engine.state == "ok")
    job = make_job(3)
    engine.submit([job])
    assert job.notify.ended.wait(20)
    assert job.notify.kind == "failed"
    if isinstance(error, Exception):
        another = make_job(3)
        engine.submit([another])
        assert another.notify.ended.wait(20)
        assert another.notify.kind == "done"
        assert engine.close(20)
    else:
        wait_until(lambda: not engine.thread.is_alive())
        assert engine.state == "failed"
