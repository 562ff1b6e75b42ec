"""What a record must be: named strings that are there, not empty, and can be encoded. Standard library only."""

from collections.abc import Callable
from dataclasses import dataclass

from glm.errors import UserError

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
    record is laid out in another way; what it cannot make sense of it returns unchanged, or raises Unclear. columns:
    (field, key) of fields that stand under other keys. groups: of fields, of which one group at least has to be there
    and not empty; () asks for none."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    unify: Callable[[dict], dict] = dict
    columns: tuple[tuple[str, str], ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()

    def named(self, content: dict) -> dict:
        """A record's content with the fields under their own names. Raises Unclear."""
        if not all(column in content for _, column in self.columns):
            # A column may be one that the other layout has.
            content = self.unify(content)
        found = {field: content[column] for field, column in self.columns if column in content}
        others = {name: value for name, value in content.items() if name not in dict(self.columns)}
        return self.unify({**others, **found})


class Unclear(ValueError):
    """A record is laid out in a way that nothing here knows; the message says what is wrong."""


def told_with_remedy(error: DataError) -> DataError:
    """The error about a bad record, with what leaves such records out."""
    return DataError(f"{error}; --on_bad_data skip leaves such records out", error.reason)


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
    present = list(content)
    try:
        content = fields.named(content)
    except Unclear as error:
        raise bad_record("unclear turns", path, line, str(error), "mend it or remove the record") from None
    for name in fields.required:
        _check_required(content, name, path, line, present, dict(fields.columns).get(name, name))
    checked = dict(content)
    for name in fields.optional:
        if content.get(name) is None:
            checked[name] = ""
        _check_type(checked, name, path, line)
    _check_groups(checked, fields.groups, path, line)
    for name, value in content.items():
        if isinstance(value, str):
            _check_characters(name, value, path, line)
    return checked


def _check_required(content: dict, name: str, path, line: int, present: list, key: str) -> None:
    """present: the record's own keys; key: the one that the field should stand under."""
    if name not in content:
        shown = ", ".join(map(repr, present[:8])) or "no fields"
        raise bad_record("missing field", path, line, f"no field {key!r} (the record has {shown})", f"add {key!r}")
    _check_type(content, name, path, line)
    if not content[name].strip():
        kind = "holds only white space" if content[name] else "is empty"
        raise bad_record("empty field", path, line, f"field {key!r} {kind}", "fill it in or remove the record")


def _check_groups(content: dict, groups, path, line: int) -> None:
    if groups and not any(all(content.get(name, "").strip() for name in group) for group in groups):
        needed = ", ".join(min(groups, key=len))
        problem = f"the record serves no task, which would need {needed} at least"
        raise bad_record("missing field", path, line, problem, "fill it in or remove the record")


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
