"""The page to review pairs on, in a real browser by keyboard, and the file of decisions that it leaves."""

import json
import signal
import subprocess
import sys

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from glm.pairs import review
from tests.helpers import ROOT
from tests.helpers.browser import PHONE, WIDE, BrowserPage, needs_browser
from tests.helpers.runs import read_lines

PASSAGE = "云栖湖位于青岚山脚下，𠮷湖面海拔一千二百米。山脚下有一座木桥。"


def pair(number, answer, question, reason=None, place=None):
    start = 100 + (PASSAGE.index(answer) if place is None else place)
    return {
        "id": f"a.txt#100:{start}-{start + len(answer)}",
        "document": "a.txt",
        "start": start,
        "end": start + len(answer),
        "passage_start": 100,
        "passage": PASSAGE,
        "answer": answer,
        "question": question,
        "model_answer": answer,
        "round_trip": {"exact": True, "beam": True, "f1": 1.0},
        "kept": reason is None,
        "reason": reason,
    }


PAIRS = [
    pair(0, "青岚山", "云栖湖位于哪座山脚下"),
    pair(1, "一千二百米", "湖面海拔多少"),
    pair(2, "山脚下", "木桥在哪里", place=PASSAGE.rindex("山脚下")),
    pair(3, "木桥", "山脚下有什么", "not_answered"),
]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in PAIRS), encoding="utf8")
    return path


class Reviewed:
    """serve_generation.py --review on a free port."""

    def __init__(self, path):
        command = [sys.executable, str(ROOT / "serve_generation.py"), "--review", str(path), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        line = self.process.stdout.readline()
        assert line.startswith("reviewing "), self.process.stderr.read()
        self.url = line.split()[-1]
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.terminate()
        self.out, self.err = self.process.communicate(timeout=30)


def decisions(path):
    """{question: decision} of the file beside the pairs."""
    return {one["question"]: one["decision"] for one in read_lines(review.reviewed_path(path))}


def put(url, number, **content):
    return httpx.put(f"{url}/pairs/{number}", json=content)


def test_decisions_are_written_at_once_and_survive_the_server(pairs):
    with Reviewed(pairs) as server:
        assert put(server.url, 1, decision="accepted").status_code == 200
        assert decisions(pairs) == {"湖面海拔多少": "accepted"}
        assert put(server.url, 3, decision="rejected").status_code == 200
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with Reviewed(pairs) as server:
        found = httpx.get(f"{server.url}/pairs").json()
        assert [one["decision"] for one in found["pairs"]] == [None, "accepted", None, "rejected"]
        assert [one["reason"] for one in found["pairs"]] == ["", "", "", "not_answered"]
        assert httpx.delete(f"{server.url}/pairs/3").json()["number"] == 3
        assert put(server.url, 0, decision="edited", question="哪座山 ", answer=" 青岚山").status_code == 200
    assert server.process.returncode == 0
    assert server.out.endswith(f"2 decisions in {review.reviewed_path(pairs)}\n")
    assert decisions(pairs) == {"哪座山": "edited", "湖面海拔多少": "accepted"}
    # It is a training file as it is.
    from glm.data.selections import load_examples

    found, _ = load_examples(review.reviewed_path(pairs), "qg")
    assert [(one.keep, one.target) for one in found] == [("青岚山", "哪座山"), ("一千二百米", "湖面海拔多少")]


def test_an_edited_answer_stands_where_it_is_said_to_and_what_was_is_kept(pairs):
    with review.opened(pairs) as opened:
        found = opened.decide(2, "edited", "桥在哪", "脚下")
        place = PASSAGE.rindex("脚下")
        assert (found["start"], found["end"], found["place"]) == (100 + place, 102 + place, place)
        assert found["original"] == {"question": "木桥在哪里", "answer": "山脚下"}
        # The same answer again, which stands twice in the passage: the place next to the first one.
        assert opened.decide(0, "edited", "哪里", "山脚下")["place"] == PASSAGE.index("山脚下")
        assert opened.undo(2)["question"] == "木桥在哪里"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"decision": "maybe"}, "it is one of accepted, edited, rejected"),
        ({"decision": "edited", "question": " ", "answer": "木桥"}, "needs a question and an answer"),
        ({"decision": "edited", "question": "问", "answer": "石桥"}, "has to stand in the passage"),
        ({"decision": 3}, "are strings"),
        ({}, "are strings"),
    ],
)
def test_a_decision_that_cannot_be_is_refused_and_nothing_is_written(pairs, content, told):
    with Reviewed(pairs) as server:
        answer = put(server.url, 0, **content)
        assert answer.status_code == 422
        assert told in answer.json()["error"]["message"]
        assert httpx.get(f"{server.url}/pairs/9").status_code == 422
        assert httpx.put(f"{server.url}/pairs/0", content=b"[").status_code == 422
        assert httpx.get(server.url, headers={"host": "example.org"}).status_code == 403
        assert put(server.url, 0, decision="accepted").status_code == 200
        foreign = httpx.put(f"{server.url}/pairs/1", json=content, headers={"origin": "http://example.org"})
        assert foreign.status_code == 403
    assert decisions(pairs) == {"云栖湖位于哪座山脚下": "accepted"}


def test_one_reviewer_at_a_time_and_only_of_pairs_that_are_there(pairs, tmp_path, capfd):
    import serve_generation

    def refused(path):
        with pytest.raises(SystemExit) as ended:
            serve_generation.main(["--review", str(path), "--port", "0"])
        assert ended.value.code == 2
        return capfd.readouterr().err

    with review.opened(pairs) as opened:
        opened.decide(0, "accepted")
        assert "pairs.reviewed.jsonl" in refused(pairs)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({**PAIRS[0], "id": "another"}) + "\n", encoding="utf8")
    review.reviewed_path(pairs).rename(review.reviewed_path(other))
    assert "is a decision on none of the pairs here" in refused(other)
    assert "no such file" in refused(tmp_path / "none.jsonl")
    assert "several pairs have one id" in refused(twice(tmp_path))


def twice(directory):
    path = directory / "twice.jsonl"
    path.write_text((json.dumps(PAIRS[0]) + "\n") * 2, encoding="utf8")
    return path


@pytest.fixture
def page(browser, pairs):
    with Reviewed(pairs) as server:
        opened = BrowserPage(browser, server.url)
        opened.wait(lambda: opened.text("question"))
        yield opened


@needs_browser
def test_pairs_are_reviewed_by_keyboard_alone(page, pairs):
    def shows(question):
        page.wait(lambda: page.text("question") == question)

    shows(PAIRS[0]["question"])
    assert page.browser.execute_script("return document.querySelector('mark').textContent") == "青岚山"
    assert "0 / 4" in page.text("progress-text")
    page.press("a")
    shows(PAIRS[1]["question"])
    assert decisions(pairs) == {PAIRS[0]["question"]: "accepted"}
    page.press("r")
    shows(PAIRS[2]["question"])
    # The second of two places, beyond a character of two code units.
    before = page.browser.execute_script("return document.querySelector('mark').previousSibling.textContent")
    assert before == PASSAGE[: PASSAGE.rindex("山脚下")]
    page.press("u")
    shows(PAIRS[1]["question"])
    assert PAIRS[1]["question"] not in decisions(pairs)
    page.press("e")
    page.press_together(Keys.CONTROL, "a")
    page.press("海拔几何", Keys.TAB)
    page.press_together(Keys.CONTROL, "a")
    page.press("二千米")
    page.press_together(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: page.text("error").startswith("不能这样保存。"))
    page.press_together(Keys.CONTROL, "a")
    page.press("二百米")
    page.press_together(Keys.CONTROL, Keys.ENTER)
    shows(PAIRS[2]["question"])
    assert decisions(pairs)["海拔几何"] == "edited"
    page.press(Keys.ARROW_RIGHT)
    shows(PAIRS[3]["question"])
    assert page.text("reason") == "答不回来"
    page.press(Keys.ARROW_LEFT)
    shows(PAIRS[2]["question"])
    page.press("a")
    shows(PAIRS[3]["question"])
    page.press("r")
    page.wait(lambda: page.text("nothing") == "这里没有要评审的问答对了。")
    assert "4 / 4" in page.text("progress-text")
    # A tab that is opened anew goes on from there.
    page.browser.refresh()
    page.wait(lambda: "4 / 4" in page.text("progress-text"))


@needs_browser
def test_only_pairs_of_a_reason_are_shown_where_that_is_asked_for(page):
    page.browser.execute_script(
        "const f = document.getElementById('filter'); f.value = 'not_answered'; f.dispatchEvent(new Event('change'))"
    )
    page.wait(lambda: page.text("question") == PAIRS[3]["question"])
    page.press(Keys.ARROW_RIGHT)
    page.wait(lambda: page.text("question") == PAIRS[3]["question"])
    page.press("a")
    page.wait(lambda: page.element("nothing").is_displayed())
    assert not page.element("pair").is_displayed()
    assert "1 / 4" in page.text("progress-text")


@needs_browser
def test_the_page_fits_a_desk_and_a_phone_in_both_languages(page):
    for language in ("zh-CN", "en"):
        for name, size in (("wide", WIDE), ("phone", PHONE)):
            page.resize(size)
            page.check_layout(f"review-{name}-{language}")
            page.press("e")
            page.check_layout(f"review-edit-{name}-{language}")
            page.press(Keys.ESCAPE)
        page.check_colours(dark=False)
        with page.in_dark():
            page.check_layout(f"review-dark-{language}")
            page.check_colours(dark=True)
        page.element("language").click()
        page.wait(lambda now=language: page.browser.execute_script("return document.documentElement.lang") != now)


@needs_browser
def test_a_lost_server_is_told_and_its_decisions_are_there(browser, pairs):
    with Reviewed(pairs) as server:
        page = BrowserPage(browser, server.url)
        page.wait(lambda: page.text("question"))
        page.press("a")
        page.wait(lambda: page.text("question") == PAIRS[1]["question"])
        server.process.kill()
        server.process.wait()
    page.press("a")
    page.wait(lambda: page.text("error").startswith("连不上服务器。已做的决定都已写下"))
    assert decisions(pairs) == {PAIRS[0]["question"]: "accepted"}
