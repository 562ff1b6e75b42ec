"""What a record must be: named strings that are there, not empty, and can be encoded. Standard library only."""

from collections.abc import Callable
from dataclasses import dataclass

from errors import UserError

_JSON_TYPES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


class DataError(UserError):
    """Unusable data, told in one line: "path:line: what is wrong; what to do". `reason` is a short name of its kind."""

    def __init__(self, message: str, reason: str = "bad data"):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Fields:
    """The strings a record must have (and not empty), and those it may have. unify: makes them of other ones, where a
    record is laid out in another way; what it cannot make sense of it returns unchanged."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    unify: Callable[[dict], dict] = dict


def bad_record(reason: str, path, line: int, problem: str, advice: str) -> DataError:
    """The error to raise for one record: "path:line: problem; advice"."""
    return DataError(f"{path}:{line}: {problem}; {advice}", reason)


def validate(content, fields: Fields, path, line: int) -> dict:
    """A copy of the object in which each field asked for is a sound string; an absent optional one is "".

    Raises DataError that names path, line and the first fault.
    """
    if not isinstance(content, dict):
        problem = f"the record is {_JSON_TYPES[type(content)]}, not an object"
        raise bad_record("not an object", path, line, problem, "write {...} with named fields")
    content = fields.unify(content)
    for name in fields.required:
        _check_required(content, name, path, line)
    checked = dict(content)
    for name in fields.optional:
        if content.get(name) is None:
            checked[name] = ""
        _check_type(checked, name, path, line)
    for name, value in content.items():
        if isinstance(value, str):
            _check_characters(name, value, path, line)
    return checked


def _check_required(content: dict, name: str, path, line: int) -> None:
    if name not in content:
        present = ", ".join(map(repr, list(content)[:8])) or "no fields"
        raise bad_record("missing field", path, line, f"no field {name!r} (the record has {present})", f"add {name!r}")
    _check_type(content, name, path, line)
    if not content[name].strip():
        kind = "holds only white space" if content[name] else "is empty"
        raise bad_record("empty field", path, line, f"field {name!r} {kind}", "fill it in or remove the record")


def _check_type(content: dict, name: str, path, line: int) -> None:
    value = content[name]
    if not isinstance(value, str):
        problem = f"field {name!r} is {_JSON_TYPES[type(value)]}, not a string"
        raise bad_record("wrong type", path, line, problem, 'write it as a "string"')


def _check_characters(name: str, value: str, path, line: int) -> None:
    if "\0" in value:
        problem = f"field {name!r} holds a NUL character (\\u0000)"
        raise bad_record("NUL character", path, line, problem, "remove it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        problem = f"field {name!r} holds half a surrogate pair ({half} at character {error.start + 1})"
        raise bad_record("lone surrogate", path, line, problem, "write the whole character or remove it") from None
