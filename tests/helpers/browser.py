"""A real browser, and a page in it as a person at a keyboard sees it."""

import base64
import re
import shutil
from contextlib import contextmanager
from itertools import combinations

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.helpers import ROOT

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium or chromedriver on PATH: apt-get install chromium chromium-driver"
)
SCREENSHOTS = ROOT / "screenshots"
QUIET = ["quic", "background-networking", "component-update", "sync", "gpu"]
WIDE, PHONE = (1200, 900), (360, 740)


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


class BrowserPage:
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

    @contextmanager
    def in_dark(self):
        """Context in which the reader's system is set to dark colours."""
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        yield
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def check_colours(self, dark):
        """All text stands out from what is behind it, as WCAG 2.1 asks of text (4.5 to 1); on a dark page or not."""
        texts = self.browser.execute_script(COLOURS)
        assert len(texts) > 8
        for name, colour, behind in texts:
            one, other = sorted(map(luminance, (colour, behind)))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (name, colour, behind)
        page = self.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (luminance(numbers(page)) < 0.1) == dark


def numbers(colour):
    """Red, green, blue of a CSS colour."""
    return [float(number) for number in re.findall(r"[\d.]+", colour)[:3]]


def luminance(colour):
    """Relative luminance of red, green, blue (0-255), by WCAG 2.1."""
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# Of each text that can be read its element, its colour, and the colour behind it, as red, green, blue.
COLOURS = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour.slice(0, 3);
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")]
  .filter((element) => element.checkVisibility() && !element.closest(":disabled, noscript, script"))
  .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((element) => {
    const colour = numbers(getComputedStyle(element).color).slice(0, 3);
    return [element.id || element.textContent, colour, behind(element)];
  });
"""

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
