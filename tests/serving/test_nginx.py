"""Behind a real nginx, under a path of its own."""

import threading
import time

import httpx
import openai
import pytest

from tests.helpers.browser import needs_browser
from tests.helpers.nginx import Nginx, needs_nginx
from tests.helpers.served import events_of
from tests.serving.test_limits import Stepped
from tests.serving.test_page import Page

pytestmark = needs_nginx


def test_clients_and_streams_come_through(served, tmp_path):
    with Nginx(served.url, tmp_path, idle=15) as nginx:
        prompt = {"context": "天空是蓝色的。", "answer": "蓝色"}
        plain, streamed = (
            httpx.post(f"{nginx.url}generate", json={**prompt, **more}) for more in ({}, {"stream": True})
        )
        assert plain.json()["prediction"] == served.ask(**prompt).json()["prediction"]
        assert events_of(streamed.text)[-1][1]["prediction"] == plain.json()["prediction"]
        client = openai.OpenAI(base_url=f"{nginx.url}v1", api_key="none")
        chunks = list(client.completions.create(model=None, prompt="天空", stream=True))
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")


@needs_browser
def test_the_page_works_under_its_path(browser, served, tmp_path):
    with Nginx(served.url, tmp_path, idle=15) as nginx:
        page = Page(browser, nginx.url)
        page.fill("天空是蓝色的。", "蓝色")
        page.ask()
        assert page.text("status").startswith("完成")
        browser.get(f"{nginx.url}docs")
        page.wait(lambda: "/v1/chat/completions" in browser.find_element("tag name", "main").text)
        assert browser.get_log("browser") == []


@pytest.mark.faults
def test_a_stream_that_is_silent_for_longer_than_nginx_waits_survives(tmp_path):
    """As beam search is until its end."""
    with Stepped(timeout=120.0) as server, Nginx(server.url, tmp_path, idle=15) as nginx:

        def decode():
            time.sleep(40)
            for _ in range(4000):
                server.steps.release()

        threading.Thread(target=decode, daemon=True).start()
        content = {"source": "你好", "stream": True}
        with httpx.stream("POST", f"{nginx.url}generate", json=content, timeout=90) as answer:
            text = answer.read().decode()
        assert text.count(": nothing new yet") >= 3
        assert events_of(text)[-1][0] == "done"
