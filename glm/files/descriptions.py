"""Small JSON files that say what other files are: read within bounds, and held against a schema before anything is made
of what they say.

A schema is a pydantic model, or any type that pydantic knows. Types are strict, a number has bounds: what such a file
asks for may come from a stranger. pydantic takes a while to import, so it is imported when the first file is read.
"""

import json
from functools import lru_cache
from pathlib import Path

from glm.errors import UserError, printable

# Bytes of a file; the fingerprint of a model with 1,000 layers has 2 MB.
LARGEST = 2**24
# Characters of a value that a message shows.
SHOWN = 40


class DescriptionError(UserError):
    """A file does not describe what it should; the message says where and what, in one line."""


def read_text(path, error=DescriptionError):
    """The text of a file of at most LARGEST bytes. Raises `error`."""
    try:
        with open(path, "rb") as file:
            # In pieces: a reader that is asked for much takes memory for as much at once.
            content = bytearray()
            while len(content) <= LARGEST and (piece := file.read(2**16)):
                content += piece
        if len(content) > LARGEST:
            raise error(f"{path}: has more than {LARGEST} bytes; it must be a small JSON file")
        return content.decode("utf-8-sig")
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror})") from None
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 at byte {reason.start + 1}") from None


def parsed(text, place, error=DescriptionError):
    """A JSON text as an object. Raises `error`; place: what the message calls it."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as reason:
        raise error(f"{place}:{reason.lineno}: not JSON ({reason.msg})") from None
    except (ValueError, RecursionError):
        raise error(f"{place}: not JSON (a number of thousands of digits, or brackets in brackets)") from None
    if not isinstance(content, dict):
        raise error(f"{place}: must hold one object, and holds {json.dumps(content)[:SHOWN]}")
    return content


def read(path, schema, error=DescriptionError):
    """The object in a JSON file, a dict, which is as a schema has it. Raises `error` in one line: file, field, what it
    must be."""
    if not Path(path).is_file():
        raise error(f"{path}: no such file")
    return check(parsed(read_text(path, error), path, error), schema, path, error)


def check(content, schema, place, error=DescriptionError):
    """`content`, which is as a schema has it. Raises `error` in one line; place: what the message calls it."""
    from pydantic import ValidationError

    try:
        adapter(schema).validate_python(content, strict=True)
    except ValidationError as found:
        errors = found.errors(include_url=False, include_context=False)
        # What is there and wrong says more than what is not.
        first = min(errors, key=lambda error: error["type"] == "missing")
        raise error(f"{place}: {told(first)}") from None
    return content


@lru_cache
def adapter(schema):
    """pydantic's validator of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def told(error):
    """One of pydantic's errors in words."""
    field = printable(".".join(f"{part}"[:SHOWN] for part in error["loc"]))
    if error["type"] == "missing":
        return f"lacks {field}"
    if error["type"] == "extra_forbidden":
        return f"has an unknown key {field}"
    value = shown(error["input"])
    message = error["msg"].replace("Input should be", "must be").replace("a valid integer", "a whole number")
    return f"{field} is {value}; it {message}" if field else f"it {message}"


def shown(value):
    """The beginning of a value of a JSON file, as a message shows it."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return printable(text if len(text) <= SHOWN else text[:SHOWN] + "…")
