"""Data files of every format, mutated: records, or one line that says what is wrong."""

import io
import json
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm.data.own_prompts import OwnPrompt
from glm.data.selections import load_examples
from tests.faults.test_fuzz import refused_or

ROWS = [{"context": f"钟楼高{n}米,\n旁边有桥。", "answer": f"{n}", "question": '多"高"'} for n in range(3)]
NESTED = {"version": 1, "data": [{"paragraphs": [{"context": row["context"], "qas": [row]} for row in ROWS]}]}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "paragraphs", "qas", "context", "answers", "text", "id"]), inner)
    ),
    max_leaves=12,
)


def content_of(suffix):
    """The bytes of a file of this format."""
    stream = io.BytesIO()
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), stream)
    elif suffix == ".xlsx":
        import openpyxl

        workbook = openpyxl.Workbook()
        for row in (list(ROWS[0]), *(list(row.values()) for row in ROWS)):
            workbook.active.append(row)
        workbook.save(stream)
    elif suffix == ".json":
        stream.write(json.dumps(NESTED, indent=1).encode())
    else:
        import pandas

        stream.write(pandas.DataFrame(ROWS).to_csv(index=False, sep="," if suffix == ".csv" else "\t").encode())
    return stream.getvalue()


def told_or_read(path, on_bad_data):
    """Examples, None where a file is refused in one line."""
    if (read := refused_or(partial(load_examples, on_bad_data=on_bad_data), path, "qg")) is None:
        return None
    found, _ = read
    assert all(isinstance(text, str) for example in found for text in (example.source, example.target))
    return found


@pytest.fixture(scope="module", params=[".csv", ".tsv", ".parquet", ".xlsx", ".json"])
def whole(request, tmp_path_factory):
    """A file as it should be."""
    path = tmp_path_factory.mktemp("whole") / f"data{request.param}"
    path.write_bytes(content_of(request.param))
    assert len(told_or_read(path, "error")) == 3
    return path


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), on_bad_data=st.sampled_from(["error", "skip"]))
def test_a_mutated_file_is_read_or_refused(whole, tmp_path, data, on_bad_data):
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["byte", "cut", "drop", "double"]))
        if kind == "byte":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[max(at, 1) :]
        elif kind == "drop":
            del content[at : at + data.draw(st.integers(1, 40))]
            content = content or bytearray(b"x")
        else:
            content[at:at] = content[at : at + 40]
    path = tmp_path / whole.name
    path.write_bytes(content)
    told_or_read(path, on_bad_data)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=values, on_bad_data=st.sampled_from(["error", "skip"]))
def test_any_nesting_is_read_or_refused(tmp_path, content, on_bad_data):
    for value in (content, {"data": content}, [content], {"data": [{"paragraphs": [{"qas": content}]}]}):
        (tmp_path / "data.json").write_text(json.dumps(value), encoding="utf8")
        told_or_read(tmp_path / "data.json", on_bad_data)


@given(st.text(st.sampled_from("{}ab [gMASK]问!:."), max_size=12))
def test_any_prompt_is_one_or_is_refused(text):
    if (prompt := refused_or(OwnPrompt.parse, text)) is not None:
        assert prompt({name: f"({name})" for name in prompt.names})["context"] == f"({prompt.cut})"
