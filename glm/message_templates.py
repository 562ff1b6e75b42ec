"""A finished message → the template that made it, and the values in it: so it can be said in another language.

A template is a text with numbered places for values: "{0}: no such file; check the path". Only the standard library.
"""

import re

PLACE = re.compile(r"\{(\d+)\*?\}")
WORD = re.compile(r"[^\W\d_]")


class Template:
    """A message in English and in another language.

    english: its places are {0}, {1}, … in their order, with something between them. other: has the same places, in any
    order; {1*} holds a message itself, which is put into the other language, too; what the others hold is data, and
    stays what it is. weight: characters of its words. messages: which values are messages.
    """

    def __init__(self, english, other):
        self.literals, self.parts = merged(PLACE.split(english)[::2], other)
        self.messages = {part[0] for part in self.parts[1::2] if part[1]}
        self.weight = sum(map(len, self.literals))

    def ways(self, message):
        """The values by which this template makes a message, a list of one; empty if none do. Where values could end at
        several places, the first and the last: which is meant, only the messages among the values can tell."""
        first, last = self.literals[0], self.literals[-1]
        if len(self.literals) == 1:
            return [[]] if message == first else []
        if len(message) < len(first) + len(last) or not (message.startswith(first) and message.endswith(last)):
            return []
        body, inner = message[len(first) : len(message) - len(last)], self.literals[1:-1]
        found = cut(body, inner)
        if found is None:
            return []
        other = cut_from_the_end(body, inner)
        return [found] if other == found else [found, other]

    def filled(self, values, translate):
        """The message in the other language. translate: puts a message in it into that language, too."""
        texts = []
        for part in self.parts:
            texts.append(part if isinstance(part, str) else translate(values[part[0]]) if part[1] else values[part[0]])
        return "".join(texts)


def merged(literals, other):
    """(texts around values, parts of the other language: texts, and (number of a value, whether it is a message)) with
    those values as one that have the same mere punctuation between them in both languages, as in path:line: then it
    does not matter where which one ends."""
    kept, value_of, last, whole = literals[:1], {0: 0}, 0, other
    for place, separator in enumerate(literals[1:-1], start=1):
        mark = "*" if f"{{{place - 1}*}}{separator}{{{place}*}}" in whole else ""
        if not WORD.search(separator) and f"{{{place - 1}{mark}}}{separator}{{{place}{mark}}}" in whole:
            other = other.replace(f"{separator}{{{place}{mark}}}", "", 1)
        else:
            kept.append(separator)
            last += 1
        value_of[place] = last
    parts = re.split(r"(\{\d+\*?\})", other)
    places = [(value_of[int(PLACE.fullmatch(part)[1])], part.endswith("*}")) for part in parts[1::2]]
    parts[1::2] = places
    return [*kept, *literals[1:][-1:]], parts


def cut(text, separators):
    """The texts between separators, each at the first place where it can be; None if one is missing."""
    found = []
    for separator in separators:
        before, there, text = text.partition(separator)
        if not there:
            return None
        found.append(before)
    return [*found, text]


def cut_from_the_end(text, separators):
    """cut() with each separator at the last place where it can be."""
    found = []
    for separator in reversed(separators):
        text, _, after = text.rpartition(separator)
        found.append(after)
    return [text, *reversed(found)]
