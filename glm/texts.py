"""What programs say, in the reader's language: English in the code, Chinese in texts.zh.json beside this file.

Code writes English. said() puts a text of --help into the language, translated() a finished message, and only where it
is shown: what an exception holds, what files and answers of a server hold, stays English. Only the standard library;
in English nothing is read.
"""

import json
import os
from functools import lru_cache
from itertools import chain, starmap
from pathlib import Path
from typing import NamedTuple

from glm.message_templates import Template

FILE = Path(__file__).with_name("texts.zh.json")
# The user's own word, then what a system has about languages, the weightiest first.
VARIABLE = "GLM_LANG"
LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")
# Sections of the file with texts that are said as they stand.
WHOLE = ("titles", "helps", "headings", "descriptions")
# What parts of a message are joined by, in English and in Chinese, the weakest bond first.
JOINTS = ((" | ", " | "), ("; ", "；"), (", ", "，"))
# Longer messages are told in English; of others, so many parts are looked at, so many places to part one, and so many
# messages within each other.
LONGEST, MOST_PARTS, MOST_PLACES, DEEPEST = 50_000, 400, 16, 24


def language():
    """ "zh" or "en": as GLM_LANG says, else the locale."""
    asked = os.environ.get(VARIABLE, "").lower()
    if asked.startswith(("zh", "en")):
        return asked[:2]
    locale = next(filter(None, map(os.environ.get, LOCALE)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


@lru_cache
def table():
    """What texts.zh.json holds: {section: {English: Chinese}}, and "inherited": {flag: {language: text}}."""
    return json.loads(FILE.read_text(encoding="utf8"))


@lru_cache
def templates():
    """The Templates of messages."""
    return [*starmap(Template, {**table()["foreign"], **table()["messages"]}.items())]


def said(english):
    """A text of --help in the reader's language."""
    if language() == "en":
        return english
    return next((texts[english] for texts in map(table().get, WHOLE) if english in texts), english)


def described(english):
    """A text of several paragraphs in the reader's language; those that are commands stay."""
    if language() == "en":
        return english
    paragraphs = english.split("\n\n")
    known = [(paragraph, " ".join(paragraph.split())) for paragraph in paragraphs]
    return "\n\n".join(said(line) if said(line) != line else paragraph for paragraph, line in known)


def help_of(flag, english):
    """What --help says of a flag, in the reader's language. english: what its field says."""
    if language() == "en":
        return english
    inherited = table()["inherited"].get(flag, {}).get("zh", english)
    return without_marks(table()["helps"].get(" ".join(english.split()), inherited))


def without_marks(markdown):
    """A text of the pages as a terminal shows it: without the marks of code and links."""
    text, *links = markdown.split("](")
    for link in links:
        head, _, name = text.rpartition("[")
        text = head + name + link.partition(")")[2]
    return text.replace("`", "")


def translated(message):
    """A finished message in the reader's language; English if it is none that the table has. Values in it (paths, data)
    stay what they are."""
    if language() == "en" or len(message) > LONGEST:
        return message
    if "\n" in message:
        return "\n".join(map(translated, message.split("\n")))
    return Translation().best(message).text


class Told(NamedTuple):
    """A message as it is told, and how many characters of it were known words."""

    known: int
    text: str


class Translation:
    """The way from one message to Chinese. A message may be made in several ways, for values may look like words: the
    one by which most of it is known is taken, of those alike the one with fewest parts."""

    def __init__(self):
        self.found, self.depth = {}, 0

    def best(self, message):
        """A message, Told; English if nothing in it is known."""
        if message not in self.found:
            if len(self.found) >= MOST_PARTS or self.depth >= DEEPEST:
                return Told(0, message)
            # A message within itself is not known.
            self.found[message] = Told(0, message)
            self.depth += 1
            ways = chain(self.whole(message), self.joined(message), self.at_a_place(message))
            self.found[message] = max([self.found[message], *ways], key=lambda told: told.known)
            self.depth -= 1
        return self.found[message]

    def whole(self, message):
        """A message as templates make it."""
        for template in templates():
            ways = template.ways(message)
            for values in ways:
                inner = [self.best(values[number]) for number in template.messages]
                # Where values could end elsewhere, one that is known has to show that they do not.
                if len(ways) == 1 or (inner and all(told.known for told in inner)):
                    known = template.weight + sum(told.known for told in inner)
                    yield Told(known, template.filled(values, lambda value: self.best(value).text))

    def joined(self, message):
        """A message put together from two: both are known, or what a library says is beside what is to be done."""
        for english, chinese in JOINTS:
            for before, after in halves(message, english):
                first, second = self.best(before), self.best(after)
                if first.known and second.known:
                    yield Told(first.known + second.known, first.text + chinese + second.text)
                elif english == "; " and (first.known or second.known):
                    yield Told(first.known + second.known, first.text + english + second.text)

    def at_a_place(self, message):
        """A message after where it is about, "file.json:3: …"; that is data."""
        for place, what in halves(message, ": "):
            if (told := self.best(what)).known:
                yield Told(told.known + 1, f"{place}: {told.text}")


def halves(text, separator):
    """Pairs of what stands before and after each of the first separators in a text."""
    start = -1
    for _ in range(MOST_PLACES):
        start = text.find(separator, start + 1)
        if start < 0:
            return
        yield text[:start], text[start + len(separator) :]
