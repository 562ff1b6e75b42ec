"""Items are those of json.loads(), however the file is divided into blocks; mistakes are placed as it places them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.files import json_array
from glm.files.json_array import ArrayError, array_items, begins_array

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
blocks = st.sampled_from([1, 2, 3, 7, 64])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.json"


def items(path, block):
    """(lines, items) read in blocks of so many bytes; the texts of the items are read again for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "BLOCK", block)
        assert begins_array(path)
        lines, found, texts = [list(column) for column in zip(*array_items(path), strict=True)] or [[], [], []]
        assert [json.loads(text) for text in texts] == found
        return lines, found


@given(st.lists(values, max_size=6), blocks, st.sampled_from([None, 1]), st.booleans(), st.booleans())
def test_items_are_those_of_the_whole_text(tmp_path_factory, content, block, indent, ascii_only, mark):
    path = tmp_path_factory.mktemp("array") / "data.json"
    text = "\n " + json.dumps(content, indent=indent, ensure_ascii=ascii_only) + "\n"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode("utf-8", "surrogatepass"))
    if not ascii_only and any(0xD800 <= ord(character) < 0xE000 for character in text):
        return  # no UTF-8 text
    lines, found = items(path, block)
    assert found == content
    assert lines == sorted(lines)
    assert set(lines) <= ({2} if indent is None else set(range(3, text.count("\n") + 1)))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4), st.data(), blocks)
def test_a_text_that_is_cut_off_is_no_array(tmp_path_factory, content, data, block):
    path = tmp_path_factory.mktemp("array") / "data.json"
    text = json.dumps(content)
    path.write_text(text[: data.draw(st.integers(1, len(text) - 1))], encoding="utf8")
    with pytest.raises(ArrayError) as error:
        items(path, block)
    assert error.value.line == 1


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize(
    ("content", "line", "column", "problem"),
    [
        (b'[{"a": 1},\n {"a" 2}]', 2, 7, "Expecting ':' delimiter"),
        (b'[{"a": 1}\n {"b": 2}]', 2, 2, "expected ',' or ']'"),
        (b'[{"a": 1}]\n[]', 2, 1, "text after the closing ']'"),
        (b"[1,\n", 2, 1, "Expecting value"),
        ('[1,\n"好'.encode() + b'\xff"]', 2, 3, "byte 0xff is not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(path, content, line, column, problem, block):
    path.write_bytes(content)
    with pytest.raises(ArrayError) as error:
        items(path, block)
    assert (error.value.line, error.value.column, error.value.problem) == (line, column, problem)


def test_few_items_are_in_memory_at_a_time(path, monkeypatch):
    monkeypatch.setattr(json_array, "BLOCK", 1000)
    path.write_text(json.dumps([{"text": "好" * 20}] * 1000), encoding="utf8")
    longest, read_on = [0], json_array.Window.read_on

    def watched(self):
        more = read_on(self)
        longest[0] = max(longest[0], len(self.text))
        return more

    monkeypatch.setattr(json_array.Window, "read_on", watched)
    assert sum(1 for _ in array_items(path)) == 1000
    assert 500 < longest[0] < 3000


@given(st.text(st.sampled_from("a\n字")), st.lists(st.integers(0, 60)))
def test_places_are_those_of_the_text_though_each_is_counted_from_the_last(tmp_path_factory, text, positions):
    path = tmp_path_factory.mktemp("array") / "data.json"
    path.write_text(text, encoding="utf8")
    with open(path, "rb") as file:
        window = json_array.Window(file)
        window.read_on()
        for position in sorted(min(position, len(text)) for position in positions):
            before = text[:position].split("\n")
            assert window.place(position) == (len(before), len(before[-1]) + 1)
            assert window.known == position
