"""The page in a real browser, by keyboard alone: a question streams in, the history stays, both languages, a phone."""

import json

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.helpers import ROOT
from tests.helpers.browser import PHONE, WIDE, BrowserPage, needs_browser
from tests.helpers.proxied import Proxied
from tests.helpers.served import Served

pytestmark = needs_browser
RECORD = json.loads((ROOT / "demo" / "qg" / "dev.json").read_text(encoding="utf8").splitlines()[0])
BUSY, IDLE = "true", "false"


class Page(BrowserPage):
    """The page to ask questions on."""

    def fill(self, context, answer):
        """Write into both fields."""
        for name, text in (("context", context), ("answer", answer)):
            self.tab_to(name)
            self.press_together(Keys.CONTROL, "a")
            self.press(text)

    def ask(self):
        """Press Ctrl+Enter and wait for the answer's end."""
        self.press_together(Keys.CONTROL, Keys.ENTER)
        self.wait(lambda: self.element("question").get_attribute("aria-busy") == IDLE)

    def entries(self):
        """The questions in the history."""
        return [item.text for item in self.browser.find_elements(By.CSS_SELECTOR, "#entries li > p")]


@pytest.fixture
def page(browser, served):
    return Page(browser, served.url)


@pytest.fixture(scope="module")
def unhurried(briefly_trained):
    """A server whose texts take long enough to be seen growing: an ONNX program may be done before it is drawn."""
    flags = ["--engine", "python", "--src_length", "128", "--tgt_length", "24", "--min_tgt_length", "12"]
    with Served("--model_name_or_path", briefly_trained, *flags) as server:
        yield server


def test_a_question_is_asked_by_keyboard_alone_and_stays_in_the_history(browser, unhurried):
    page, served = Page(browser, unhurried.url), unhurried
    context, answer = RECORD["context"], RECORD["answer"]
    expected = served.ask(context=context, answer=answer).json()["prediction"]
    page.browser.execute_script(WATCH)
    page.fill(context, answer)
    page.ask()
    assert page.text("question") == expected.strip()
    assert page.text("status").startswith("完成")
    seen = page.browser.execute_script("return seen")
    assert len(set(seen)) > 2, "the question appears in pieces"
    assert all(expected.startswith(text) for text in seen)
    assert page.focus == "answer", "the next answer can be typed at once"

    page.browser.refresh()
    assert page.entries() == [expected]
    page.tab_to("clear")
    page.press(Keys.ENTER)
    assert page.entries() == []
    page.browser.refresh()
    assert page.entries() == []


WATCH = """
window.seen = [];
const question = document.getElementById("question");
new MutationObserver(() => seen.push(question.textContent)).observe(question, { childList: true });
"""


def test_tab_goes_through_the_page_in_reading_order(page):
    page.fill(RECORD["context"], RECORD["answer"])
    page.ask()
    page.browser.refresh()
    order = []
    for _ in range(7):
        page.press(Keys.TAB)
        order.append(page.focus or page.browser.switch_to.active_element.text)
        assert page.browser.execute_script("return document.activeElement.matches(':focus-visible')")
    assert order == ["language", "context", "answer", "ask", "clear", "上下文", "再用一次"]
    page.press(Keys.ENTER)
    assert page.element("context").get_property("value") == RECORD["context"]
    assert page.focus == "context"
    names = page.browser.execute_script(
        "return [...document.querySelectorAll('textarea, input')].map((field) => field.labels[0].textContent)"
    )
    assert names == ["上下文", "答案"]


def test_the_language_is_remembered_and_nothing_is_cut_off_on_a_desk_or_a_phone(page):
    page.fill(RECORD["context"] * 2, RECORD["answer"])
    page.ask()
    for language, title in (("zh-CN", "问题生成"), ("en", "Question generation")):
        assert page.browser.find_element(By.TAG_NAME, "h1").text == title
        assert page.browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == language
        page.browser.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        for size, name in ((WIDE, "wide"), (PHONE, "phone")):
            page.resize(size)
            page.check_layout(f"{name}-{language}")
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        page.check_layout(f"dark-{language}")
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.tab_to("language")
        page.press(Keys.ENTER)
    page.press(Keys.ENTER)
    page.browser.refresh()
    assert page.browser.find_element(By.TAG_NAME, "h1").text == "Question generation"
    assert page.text("language") == "中文"


def test_mistakes_and_refusals_are_told_in_the_pages_language(page):
    page.resize(PHONE)
    page.tab_to("context")
    page.ask()
    assert page.text("error") == "请填写上下文。"
    assert page.focus == "context"
    page.press("天空是蓝色的。")
    page.ask()
    assert page.text("error") == "请填写答案。"
    assert (page.focus, page.element("answer").get_attribute("aria-invalid")) == ("answer", "true")
    page.fill("天" * 600, "蓝色")
    page.ask()
    assert page.text("error").startswith("内容太长，请缩短。")
    assert "at most 500" in page.text("error")
    page.check_layout("phone-error")
    page.tab_to("language")
    page.press(Keys.ENTER)
    assert page.text("error").startswith("This is too long")
    assert page.element("question").get_attribute("aria-busy") == IDLE


def test_escape_cancels_and_a_lost_server_is_told(page):
    page.fill("天空是蓝色的。", "蓝色")
    # The server answers within a few milliseconds; one that never does is needed to be cancelled.
    page.browser.execute_script(
        "window.realFetch = fetch; window.fetch = (url, options) => new Promise((_, refuse) => "
        "options.signal.addEventListener('abort', () => refuse(options.signal.reason)));"
    )
    page.press_together(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: page.text("status") == "等待中……")
    assert page.element("question").get_attribute("aria-busy") == BUSY
    page.press(Keys.ESCAPE)
    page.wait(lambda: page.text("status") == "已取消。")
    assert page.entries() == []
    page.browser.execute_script("window.fetch = () => Promise.reject(new TypeError('unreachable'));")
    page.ask()
    assert page.text("error").startswith("连不上服务器")
    page.browser.execute_script("window.fetch = realFetch;")
    page.ask()
    assert page.text("error") == ""
    assert len(page.entries()) == 1


def test_the_page_asks_nobody_else_and_logs_nothing(page, served):
    page.fill("天空是蓝色的。", "蓝色")
    page.ask()
    loaded = page.browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert all(name.startswith(served.url) for name in loaded)
    assert page.browser.get_log("browser") == []


def test_the_page_works_under_a_path_of_a_proxy(browser, served):
    with Proxied(served.url) as proxied:
        page = Page(browser, proxied.url)
        page.fill("天空是蓝色的。", "蓝色")
        page.ask()
        assert page.text("status").startswith("完成")
        assert len(page.entries()) == 1
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert {name.removeprefix(proxied.url) for name in loaded} == {"page.css", "page.js", "generate"}
        assert browser.get_log("browser") == []


def test_what_the_model_has_not_read_is_told_in_the_pages_language(page, served):
    context = "天空是蓝色的𠮷。" + "天空很大。" * 80
    answer = served.ask(context=context, answer="蓝色").json()
    page.browser.execute_script("arguments[0].value = arguments[1]", page.element("context"), context)
    page.tab_to("answer")
    page.press("蓝色")
    page.ask()
    done, cut, unknown = page.text("status").split("\n")
    assert done.startswith("完成")
    assert f"{answer['source_tokens']} 个 token" in cut
    assert unknown.endswith(" ".join(answer["unknown_characters"]))
    page.check_layout("wide-lost")
    page.tab_to("language")
    page.press(Keys.ENTER)
    assert "has read the part around the answer" in page.text("status")


def test_comments_of_a_stream_are_no_events_to_the_page(page):
    text = ': nothing new yet\n\nevent: piece\ndata: {"index": 0, "text": "问"}\n\n: nothing new yet\n\n'
    answer = {"prediction": "问", "tokens": 2, "source_cut": False, "unknown_characters": []}
    text += f"event: done\ndata: {json.dumps(answer)}\n\n"
    page.fill("天空是蓝色的。", "蓝色")
    page.browser.execute_script("const text = arguments[0]; window.fetch = async () => new Response(text);", text)
    page.ask()
    assert (page.text("question"), page.text("error"), page.text("status")) == ("问", "", "完成，2 个 token。")


@pytest.mark.parametrize("name", ["index.html", "page.css", "page.js"])
def test_no_file_of_the_page_names_another_site(name):
    assert "//" not in (ROOT / "glm" / "serving" / "web" / name).read_text(encoding="utf8").replace("// ", "")
