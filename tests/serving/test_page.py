"""The page in a real browser, by keyboard alone: a question streams in, the history stays, both languages, a phone."""

import json
import shutil

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from glm.data import preparation
from glm.data.preparation import Preparation
from tests.helpers import ROOT
from tests.helpers.browser import PHONE, WIDE, BrowserPage, needs_browser
from tests.helpers.proxied import Proxied
from tests.helpers.served import Served

pytestmark = needs_browser
RECORD = json.loads((ROOT / "demo" / "qg" / "dev.json").read_text(encoding="utf8").splitlines()[0])
BUSY, IDLE = "true", "false"
SCRIPTS = ("shared.js", "page.js", "chat.js", "pairs.js")


class Page(BrowserPage):
    """The page to ask questions on, once it knows what it offers."""

    def __init__(self, browser, url):
        super().__init__(browser, url)
        self.wait_until_ready()

    def wait_until_ready(self):
        self.wait(lambda: self.browser.execute_script("return document.body.dataset.ready"))

    def refresh(self):
        """Load the page anew."""
        self.browser.refresh()
        self.wait_until_ready()

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

    page.refresh()
    assert page.entries() == [expected]
    page.tab_to("clear")
    page.press(Keys.ENTER)
    assert page.entries() == []
    page.refresh()
    assert page.entries() == []


WATCH = """
window.seen = [];
const question = document.getElementById("question");
new MutationObserver(() => seen.push(question.textContent)).observe(question, { childList: true });
"""


def test_tab_goes_through_the_page_in_reading_order(page):
    page.fill(RECORD["context"], RECORD["answer"])
    page.ask()
    page.refresh()
    order = []
    for _ in range(9):
        page.press(Keys.TAB)
        order.append(page.focus or page.browser.switch_to.active_element.text)
        assert page.browser.execute_script("return document.activeElement.matches(':focus-visible')")
    assert order == ["language", "context", "answer", "ask", "count", "example", "clear", "上下文", "再用一次"]
    page.press(Keys.ENTER)
    assert page.element("context").get_property("value") == RECORD["context"]
    assert page.focus == "context"
    names = page.browser.execute_script(
        "return [...document.querySelectorAll('textarea, input')].filter((field) => field.checkVisibility())"
        ".map((field) => field.labels[0].textContent)"
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
        page.check_colours(dark=False)
        with page.in_dark():
            page.check_layout(f"dark-{language}")
            page.check_colours(dark=True)
        page.tab_to("language")
        page.press(Keys.ENTER)
    page.press(Keys.ENTER)
    page.refresh()
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
    assert page.text("error") == "内容太长，请缩短：有 602 个字符，最多 500 个。"
    page.check_layout("phone-error")
    page.tab_to("language")
    page.press(Keys.ENTER)
    assert page.text("error") == "This is too long; please shorten it: 602 characters, at most 500 are allowed."
    page.fill("天空是蓝色的。", "蓝" * 140)
    page.ask()
    assert page.text("error") == "The answer is too long for the model; please shorten it."
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
        assert {name.removeprefix(proxied.url) for name in loaded} == {"page.css", *SCRIPTS, "page.json", "generate"}
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


@pytest.mark.parametrize("name", ["index.html", "page.css", "docs.html", "docs.css", "docs.js", *SCRIPTS])
def test_no_file_of_the_page_names_another_site(name):
    assert "//" not in (ROOT / "glm" / "serving" / "web" / name).read_text(encoding="utf8").replace("// ", "")


def test_several_answers_an_example_and_what_is_not_in_the_context(page, served):
    page.tab_to("example")
    page.press(Keys.ENTER)
    assert page.focus == "ask"
    context, answer = (page.element(name).get_property("value") for name in ("context", "answer"))
    assert answer in context
    assert not page.element("example").is_displayed()
    page.tab_to("count")
    page.press("3")
    page.ask()
    expected = served.ask(context=context, answer=answer, num_beams=4, num_return_sequences=3).json()["predictions"]
    others = [item.text for item in page.browser.find_elements(By.CSS_SELECTOR, "#others li > p")]
    assert [page.text("question"), *others] == expected
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#others button, #copy-question button")) == 3
    assert "上下文里没有" not in page.text("status")
    for size, name in ((WIDE, "wide"), (PHONE, "phone")):
        page.resize(size)
        page.check_layout(f"{name}-several")
    page.fill("天空是蓝色的。", "绿色")
    page.ask()
    assert "上下文里没有这个答案" in page.text("status")


def test_what_is_copied_is_the_text(page):
    page.fill("天空是蓝色的。", "蓝色")
    page.ask()
    page.browser.execute_script("navigator.clipboard.writeText = async (text) => (window.copied = text);")
    button = page.browser.find_element(By.CSS_SELECTOR, "#copy-question button")
    button.send_keys(Keys.ENTER)
    page.wait(lambda: button.text == "已复制")
    assert page.browser.execute_script("return copied") == page.text("question")


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """A server of a model that says nothing of what it has learnt, for which it asks for a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("a-key-for-tests\n")
    flags = ["--tgt_length", "12", "--src_length", "64", "--api_key_file", keys]
    with Served("--model_name_or_path", "glm-tiny-chinese", *flags) as server:
        yield server


def test_a_talk_goes_on_and_the_key_is_asked_for(browser, chatting):
    page = Page(browser, chatting.url)
    page.tab_to("kind-chat")
    page.press(Keys.ENTER)
    assert page.browser.find_element(By.TAG_NAME, "h1").text == "对话"

    def send(*keys):
        page.tab_to("message")
        page.press(*keys)
        page.press_together(Keys.CONTROL, Keys.ENTER)
        page.wait(lambda: page.element("turns").get_attribute("aria-busy") == IDLE)

    send("写诗")
    assert page.text("talk-error").startswith("这个服务需要密钥")
    assert page.element("message").get_property("value") == "写诗", "what was not answered is not lost"
    page.browser.execute_script("document.activeElement.blur()")
    page.tab_to("key")
    page.press("a-key-for-tests")
    send()
    send("再来一首")
    turns = [item.text for item in page.browser.find_elements(By.CSS_SELECTOR, "#turns li > p")]
    assert (len(turns), turns[0], turns[2]) == (4, "写诗", "再来一首")
    talk = [{"role": role, "content": turn} for role, turn in zip(("user", "assistant", "user"), turns, strict=False)]
    headers = {"Authorization": "Bearer a-key-for-tests"}
    answer = httpx.post(f"{chatting.url}/v1/chat/completions", json={"messages": talk}, headers=headers).json()
    assert turns[3] == answer["choices"][0]["message"]["content"]
    assert page.text("talk-status").startswith("完成")
    for size, name in ((WIDE, "wide"), (PHONE, "phone")):
        page.resize(size)
        page.check_layout(f"{name}-chat")
    with page.in_dark():
        page.check_colours(dark=True)
    send("很长的话" * 40)
    assert "没有读到最早的几轮" in page.text("talk-status")
    page.tab_to("new-talk")
    page.press(Keys.ENTER)
    assert page.browser.find_elements(By.CSS_SELECTOR, "#turns li") == []
    page.refresh()
    assert page.browser.find_element(By.TAG_NAME, "h1").text == "对话"
    assert page.element("key").get_property("value") == "a-key-for-tests"


def test_pairs_are_made_of_a_passage_where_the_model_has_learnt_it(browser, briefly_trained, tmp_path):
    model = shutil.copytree(briefly_trained, tmp_path / "model")
    flags = json.loads((model / "args.json").read_text())
    (model / "args.json").write_text(json.dumps({**flags, "tasks": ["ask", "extract", "answer"]}))
    (model / "manifest.json").unlink(missing_ok=True)
    with Served("--model_name_or_path", model, "--src_length", "128", "--tgt_length", "24") as server:
        page = Page(browser, server.url)
        page.tab_to("kind-pairs")
        page.press(Keys.ENTER)
        page.tab_to("passage")
        passage = "云栖湖位于青岚山脚下。每年四月到六月可以观鸟。"
        page.press(passage)
        page.press_together(Keys.CONTROL, Keys.ENTER)
        page.wait(lambda: page.element("pairs").get_attribute("aria-busy") == IDLE and page.text("pairs-status"))
        questions = [item.text for item in page.browser.find_elements(By.CSS_SELECTOR, "#pairs li > p")]
        answers = [item.text for item in page.browser.find_elements(By.CSS_SELECTOR, "#pairs dd")]
        assert len(questions) == len(answers) == len(set(answers)) > 0
        assert all(answer in passage for answer in answers)
        asked = server.ask(prompts=[{"context": passage, "answer": answer} for answer in answers]).json()["answers"]
        assert questions == [answer["prediction"] for answer in asked]
        assert page.text("pairs-status").startswith(f"{len(questions)} 对")
        for size, name in ((WIDE, "wide"), (PHONE, "phone")):
            page.resize(size)
            page.check_layout(f"{name}-pairs")
        with page.in_dark():
            page.check_colours(dark=True)


def test_a_model_with_a_prompt_of_its_own_is_asked_for_what_that_needs(browser, briefly_trained, tmp_path):
    model = shutil.copytree(briefly_trained, tmp_path / "model")
    (model / "manifest.json").unlink(missing_ok=True)
    preparation.write(Preparation("标题：{title}，正文：{body}。"), model)
    with Served("--model_name_or_path", model, "--src_length", "128", "--tgt_length", "12") as server:
        page = Page(browser, server.url)
        names = [field.get_attribute("id") for field in page.browser.find_elements(By.CSS_SELECTOR, "#fields textarea")]
        assert names == ["title", "body"]
        page.ask()
        assert page.text("error") == "请填写title。"
        for name, text in (("title", "湖"), ("body", "湖边有桥")):
            page.tab_to(name)
            page.press(text)
        page.ask()
        assert page.text("question") == server.ask(title="湖", body="湖边有桥").json()["prediction"].strip()


def test_the_documentation_of_the_interface_asks_nobody_else(browser, served):
    page = BrowserPage(browser, f"{served.url}/docs")
    page.wait(lambda: page.browser.find_elements(By.CSS_SELECTOR, "#operations section"))
    told = page.browser.find_element(By.TAG_NAME, "main").text
    for part in ("/v1/chat/completions", "/generate", "temperature", "max_tokens"):
        assert part in told
    loaded = page.browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {name.removeprefix(f"{served.url}/") for name in loaded} == {
        "page.css",
        "docs.css",
        "docs.js",
        "openapi.json",
    }
    for size, name in ((WIDE, "wide"), (PHONE, "phone")):
        page.resize(size)
        page.check_layout(f"{name}-docs")
    assert browser.get_log("browser") == []
