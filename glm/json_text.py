"""JSON as text that can be written as UTF-8, whatever names and data hold. Only the standard library."""

import json
import re
import sys

_SURROGATE = re.compile("[\ud800-\udfff]")
# json.dumps() makes one for every call that has options.
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def dumps(value, **options):
    """A value as JSON; halves of surrogate pairs are escapes, be they of data or of a file's name that is not UTF-8.
    options: those of json.dumps()."""
    text = json.dumps(value, ensure_ascii=False, **options) if options else _ENCODER.encode(value)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def pretty(value, **options):
    """A value as the text of a JSON file that people read."""
    return dumps(value, indent=2, **options) + "\n"


def show(text):
    """Write a JSON text as a line to standard output: in UTF-8, as JSON is, whatever the terminal's encoding."""
    sys.stdout.flush()
    if buffer := getattr(sys.stdout, "buffer", None):
        buffer.write(f"{text}\n".encode())
        buffer.flush()
    else:
        print(text)
