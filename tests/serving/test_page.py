"""The page in a real browser, by keyboard alone: a question streams in, the history stays, both languages, a phone."""

import base64
import json
import shutil
from itertools import combinations

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.helpers import ROOT
from tests.helpers.proxied import Proxied

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium or chromedriver on PATH: apt-get install chromium chromium-driver"
)
SCREENSHOTS = ROOT / "screenshots"
QUIET = ["quic", "background-networking", "component-update", "sync", "gpu"]
RECORD = json.loads((ROOT / "demo" / "qg" / "dev.json").read_text(encoding="utf8").splitlines()[0])
WIDE, PHONE = (1200, 900), (360, 740)
BUSY, IDLE = "true", "false"


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium with a profile of its own, in Chinese."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = ["headless", "no-sandbox", "no-first-run", "lang=zh-CN", f"user-data-dir={tmp_path / 'profile'}"]
    for flag in [*flags, *(f"disable-{name}" for name in QUIET), "disable-dev-shm-usage"]:
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"intl.accept_languages": "zh-CN,zh"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """What a person at a keyboard can do and see."""

    def __init__(self, browser, url):
        self.browser = browser
        self.resize(WIDE)
        browser.get(url)

    def resize(self, size):
        """Make the page this wide and high, in pixels."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def press(self, *keys):
        """Press keys one after another, wherever the focus is."""
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def press_together(self, modifier, key):
        """Press a key while another one is held."""
        webdriver.ActionChains(self.browser).key_down(modifier).send_keys(key).key_up(modifier).perform()

    @property
    def focus(self):
        """The id of the element that has the focus."""
        return self.browser.switch_to.active_element.get_attribute("id")

    def tab_to(self, name):
        """Go on by Tab until an element has the focus."""
        for _ in range(20):
            if self.focus == name:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"Tab does not reach {name}")

    def element(self, name):
        return self.browser.find_element(By.ID, name)

    def text(self, name):
        """The text that is visible in an element."""
        return self.element(name).text

    def wait(self, condition):
        """Wait until condition() is true."""
        WebDriverWait(self.browser, 20, 0.02).until(lambda _: condition())

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

    def check_layout(self, name):
        """Take a picture; nothing is wider than the page, cut off, or over something else."""
        SCREENSHOTS.mkdir(exist_ok=True)
        picture = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))
        assert self.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        boxes = self.browser.execute_script(LEAVES)
        assert len(boxes) > 10
        width = self.browser.execute_script("return innerWidth")
        for box in boxes:
            assert box["cut"] <= 1, f"{box['name']} is cut off"
            assert box["left"] >= 0, box
            assert box["right"] <= width, box
            assert box["right"] - box["left"] > 5, box
        for one, other in combinations(boxes, 2):
            apart = one["right"] <= other["left"] or other["right"] <= one["left"]
            assert apart or one["bottom"] <= other["top"] or other["bottom"] <= one["top"], (one, other)


# Boxes of the elements that hold text or take it; children of a button belong to it.
LEAVES = """
return [...document.querySelectorAll("h1, h2, label, textarea, input, button, p, dt, dd, summary, output")]
  .filter((element) => element.checkVisibility() && (element.textContent || element.matches("textarea, input")))
  .map((element) => {
    const { left, right, top, bottom } = element.getBoundingClientRect();
    const scrolls = element.matches("textarea, input");
    const cut = scrolls ? 0 : element.scrollWidth - element.clientWidth;
    return { name: element.id || element.textContent, left, right, top, bottom, cut };
  });
"""


@pytest.fixture
def page(browser, served):
    return Page(browser, served.url)


def test_a_question_is_asked_by_keyboard_alone_and_stays_in_the_history(page, served):
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
