"""JSON objects as text: members are added or replaced, and whatever else is there stays as it is spelled, numbers,
escapes and the order of names. Standard library only."""

import json
import re

from glm.json_text import dumps

# Whatever may have brackets, colons and commas in it that are none of the object's, and these.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]')


def members(text):
    """Yield (name, start, end) of each member of the object that is the whole of a JSON text: where in it the member
    stands, without the white space and commas around it. However deep values are nested, nothing is recursive."""
    depth, name, start = 0, None, 0
    for token in _TOKEN.finditer(text):
        kind = token[0][0]
        if kind in ",}" and depth == 1 and name is not None:
            yield name, start, start + len(text[start : token.start()].rstrip())
            name = None
        elif kind == '"' and depth == 1 and name is None:
            name, start = json.loads(token[0], strict=False), token.start()
        depth += (kind in "{[") - (kind in "}]")


def with_members(text, added):
    """The JSON text of an object with the members of a dict at its end, in one line, and the names of those that were
    there already, a list: the new ones replace them."""
    # A name that is there may be spelled with escapes; where there are none, most texts need no closer look.
    may_be_there = "\\" in text or any(f'"{name}"' in text for name in added)
    spans = list(members(text)) if may_be_there else []
    replaced = [name for name in added if any(name == there for there, _, _ in spans)]
    kept = text.strip()[1:-1].strip()
    if replaced:
        kept = ", ".join(text[start:end] for name, start, end in spans if name not in added)
    new = dumps(added)[1:-1]
    return "{" + ", ".join(filter(None, [in_one_line(kept), new])) + "}", replaced


def in_one_line(text):
    """A JSON text that may be spread over lines in one. Strings have no line breaks in them."""
    if "\n" not in text and "\r" not in text:
        return text.strip(" \t")
    lines = [line.strip(" \t") for line in re.split("[\r\n]+", text)]
    return "".join(line + " " if line.endswith(",") else line for line in lines).rstrip()
