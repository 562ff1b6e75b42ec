"""A server of the project in a process of its own, for tests."""

import json
import re
import subprocess
import sys
import time

import httpx

from tests.helpers import ROOT


class Served:
    """serve_generation.py with some flags on a free port, ready to answer; url is its address."""

    def __init__(self, *flags):
        command = [sys.executable, str(ROOT / "serve_generation.py"), "--port", "0", *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        line = self.process.stdout.readline()
        assert line.startswith("serving on "), self.process.stderr.read()
        self.url = line.split()[-1]
        while httpx.get(f"{self.url}/healthz").json() != {"status": "ok"}:
            time.sleep(0.05)
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=60)

    def ask(self, **content):
        """The response to a request."""
        return httpx.post(f"{self.url}/generate", json=content, timeout=300)

    def metrics(self):
        """{name with labels: value} of the server's metrics."""
        text = httpx.get(f"{self.url}/metrics").text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}


def events_of(text):
    """[(event, content)] of a stream of server-sent events, read by their definition; comments are passed over."""
    text = re.sub(r"^:.*\n\n", "", text, flags=re.MULTILINE)
    blocks = re.findall(r"event: (.*)\ndata: (.*)\n\n", text)
    assert "".join(f"event: {event}\ndata: {data}\n\n" for event, data in blocks) == text
    return [(event, json.loads(data)) for event, data in blocks]
