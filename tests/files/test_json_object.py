"""Members come to the end of an object's text, or in place of others, and the rest is as it was spelled."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.files import json_object

names = st.text(max_size=4) | st.sampled_from(["prediction", "score", "a,b", 'q"}', "\\", "{[:"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(names, values, max_size=5)


def spelled(text):
    """What a JSON text says, with numbers as they are spelled and all members in their order."""
    return json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)


@given(objects, st.sampled_from([None, 0, 3, "\t"]), st.booleans())
def test_new_members_are_the_last_and_replace_those_of_their_name(content, indent, ascii_only):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    added = {"prediction": "答\n案", "score": -0.5}
    line, replaced = json_object.with_members(f" {text} ", added)
    assert "\n" not in line
    kept = tuple(pair for pair in spelled(text) if pair[0] not in added)
    assert spelled(line) == (*kept, ("prediction", "答\n案"), ("score", "-0.5"))
    assert replaced == [name for name in added if name in content]


@given(objects, st.sampled_from([None, 2]))
def test_members_are_told_with_their_places(content, indent):
    text = json.dumps(content, indent=indent)
    found = list(json_object.members(text))
    assert [name for name, _, _ in found] == list(content)
    for name, start, end in found:
        assert spelled(f"{{{text[start:end]}}}") == ((name, spelled(json.dumps(content[name]))),)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": 1.0, "big": 123456789012345678901234567890, "e": 1e5, "n": null, "t": "\\u4e2d\\/中\\ud800"}',
        '{"b":1,"a":{"z":[1.50,{}],"y":{}},"b":2,"\\u0061b":"},\\""}',
        '{"x": "' + " " * 200_000 + '"}',
        '{"deep": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"separators": "\u2028\u2029\x85"}',
    ],
)
def test_a_line_is_as_it_was_but_for_its_end(text):
    assert json_object.with_members(text, {"p": 1}) == (text[:-1] + ', "p": 1}', [])


def test_an_object_over_lines_becomes_one():
    text = '{\n  "a": [\n    1,\n    2.50\n  ],\r\n  "b": {\n    "c": "x,  y"\n  }\n}'
    assert json_object.with_members(text, {"p": ""})[0] == '{"a": [1, 2.50], "b": {"c": "x,  y"}, "p": ""}'
    assert json_object.with_members("{\n}", {"p": ""})[0] == '{"p": ""}'
    assert json.loads(json_object.with_members(text, {"p": ""})[0], parse_float=Decimal)["a"][1] == Decimal("2.50")


def test_halves_of_characters_are_written_as_escapes():
    assert json_object.dumps({"中\ud800": "😀\udfff"}) == '{"中\\ud800": "😀\\udfff"}'
