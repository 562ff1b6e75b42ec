"""What users read: plain words, the same one for the same thing, and messages as programs say them."""

import re

import pytest

from glm import texts
from tests.docs.test_pages import DOCUMENTS
from tests.helpers import ROOT
from tests.helpers.messages import PLACE, strings

# A word that must not be there → the one for it.
WORDS = {
    "zh": {"抽样": "采样", "补齐": "填充", "配方": "预设配置", "束的数目": "束宽", r"提示(?= ?[0-9(（])": "提示词"},
    "en": {r"\bpieces?\b": "token", r"\ba talk\b|\bthe talk\b": "conversation"},
}
PAGE = ROOT / "glm" / "serving" / "web" / "page.js"
SYMPTOMS = {"zh": "docs/zh/troubleshooting.md", "en": "docs/en/troubleshooting.md"}


def language_of(document):
    return "zh" if document in ("README.md",) or document.startswith("docs/zh/") else "en"


def told(document):
    """A document without code: names of events and of special tokens are what they are."""
    text = (ROOT / document).read_text(encoding="utf8")
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def wrong_words(text, language):
    return {word: right for word, right in WORDS[language].items() if re.search(word, text)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_pages_have_one_word_for_one_thing(document):
    assert not wrong_words(told(document), language_of(document))


def test_programs_have_one_word_for_one_thing():
    chinese, english = [], list(strings())
    for section, content in texts.table().items():
        for key, value in content.items():
            chinese.append(value["zh"] if isinstance(value, dict) else value)
            english += [value["en"]] if section == "inherited" else [key]
    chinese += re.findall(r'"(.*)"', PAGE.read_text(encoding="utf8"))
    assert not wrong_words("\n".join(filter(lambda text: isinstance(text, str), chinese)), "zh")
    told_in_english = [text for text in english if " " in text]
    assert not {text: wrong for text in told_in_english if (wrong := wrong_words(text, "en"))}


@pytest.mark.parametrize("language", SYMPTOMS)
def test_messages_on_the_page_about_trouble_are_those_of_programs(language):
    messages = texts.table()["messages"]
    known = [*messages] if language == "en" else [*messages.values()]
    literals = [[part for part in PLACE.split(text) if part] for text in known]
    rows = re.findall(r"^\| ([^|]*) \|", (ROOT / SYMPTOMS[language]).read_text(encoding="utf8"), re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`(.+?)`", row) if text != "zlib.error"]
    assert len(quoted) > 20
    for part in (part.strip() for text in quoted for part in text.split("…")):
        if re.search(r"[a-z]{3}|[一-鿿]", part):
            assert any(is_said_by(part, literal) for literal in literals), part


def is_said_by(part, literals):
    """Whether a part of a message as a page quotes it, perhaps with values, is one of what has these texts between its
    values."""
    inside = [text for text in literals if text.strip(" :") and text.strip(" :") in part]
    return any(part in text for text in literals) or sum(map(len, inside)) > len(part) / 4
