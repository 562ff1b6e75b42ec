"""Each bad input has to give one line that names file and line; each good one its records, in order."""

import json
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm.data.kinds import find_splits
from glm.data.records import iter_records, iter_texts, read_records, read_texts
from glm.data.validation import DataError, Fields

FIELDS = Fields(required=("context", "answer"), optional=("question",))
GOOD = {"context": "天空是蓝色的。", "answer": "蓝色", "question": "天空是什么颜色？", "id": 7}
GOOD_LINE = json.dumps(GOOD, ensure_ascii=False).encode()

sound_text = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20
).filter(str.strip)
sound_records = st.lists(st.fixed_dictionaries({"context": sound_text, "answer": sound_text}), min_size=1, max_size=6)


def write(directory, content: bytes, name="data.json"):
    path = directory / name
    path.write_bytes(content)
    return path


def complaint(read, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def contents(path, fields=FIELDS, **options):
    return [(record.line, record.fields) for record in read_records(path, fields, **options)[0]]


@pytest.mark.parametrize(
    ("line", "reason", "said"),
    [
        (b'{"context": "a", "answer": }', "bad JSON", "column 28"),
        (GOOD_LINE + b"}", "bad JSON", "Extra data"),
        (b"[" * 100_000, "bad JSON", "recursion"),
        (b'{"n": ' + b"9" * 5000 + b"}", "bad JSON", "digits"),
        (b"[1]", "not an object", "a list"),
        (b"null", "not an object", "null"),
        (b'"text"', "not an object", "a string"),
        (b'{"context": "a", "reply": "b"}', "missing field", "no field 'answer' (the record has 'context', 'reply')"),
        (b'{"context": "", "answer": "b"}', "empty field", "'context' is empty"),
        (b'{"context": "a", "answer": " \\t\\n\\u3000"}', "empty field", "'answer' holds only white space"),
        (b'{"context": "a", "answer": 5}', "wrong type", "'answer' is a number"),
        (b'{"context": null, "answer": "b"}', "wrong type", "'context' is null"),
        (b'{"context": "a", "answer": true}', "wrong type", "'answer' is a boolean"),
        (b'{"context": "a", "answer": "b", "question": ["c"]}', "wrong type", "'question' is a list"),
        (b'{"context": "a\\u0000", "answer": "b"}', "NUL character", "'context'"),
        (b'{"context": "a", "answer": "b\\ud83d"}', "lone surrogate", "\\ud83d at character 2"),
        (b'{"context": "a", "answer": "b", "id": "\\udc00"}', "lone surrogate", "'id'"),
        ('{"context": "蓝"'.encode("gb18030"), "bad UTF-8", "byte 14 of the line (0xc0)"),
    ],
)
def test_bad_line_is_named_by_file_and_line_and_can_be_skipped(tmp_path, line, reason, said):
    path = write(tmp_path, b"\n".join([GOOD_LINE, b"", line, GOOD_LINE, line]))

    message = complaint(read_records, path, FIELDS)
    assert message.startswith(f"{path}:3: ")
    assert said in message
    assert "; " in message.removeprefix(f"{path}:3: ")

    records, report = read_records(path, FIELDS, "skip")
    assert [record.place for record in records] == [f"{path}:1", f"{path}:4"]
    assert (report.read, report.blank, dict(report.skipped)) == (2, 1, {reason: 2})
    assert report.first == {reason: message.removesuffix("; --on_bad_data skip leaves such records out")}
    assert "2 records read, 1 blank lines passed over, 2 bad records skipped" in report.summary()
    assert len(report.summary().splitlines()) == 1


def test_file_without_one_good_record_is_an_error_even_when_skipping(tmp_path):
    message = complaint(read_records, write(tmp_path, b"{}\n{}\n"), FIELDS, "skip")
    assert "not one usable record" in message
    assert "data.json:1: no field 'context'" in message


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"[]", b" [ \n ] "])
def test_file_without_records_is_an_error(tmp_path, content):
    assert "no records in it" in complaint(read_records, write(tmp_path, content), FIELDS, "skip")


def test_missing_file_directory_and_unknown_format_are_told_apart(tmp_path):
    assert "no such file" in complaint(read_records, tmp_path / "none.json", FIELDS)
    assert "no such file" in complaint(read_records, tmp_path / "none", FIELDS)
    assert "is a directory" in complaint(read_records, tmp_path, FIELDS)
    (tmp_path / "directory.json").mkdir()
    assert "is a directory" in complaint(read_records, tmp_path / "directory.json", FIELDS)
    assert "cannot tell the format" in complaint(read_records, write(tmp_path, b"a,b\n1,2\n", "a.log"), FIELDS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    rows=sound_records,
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    escape=st.booleans(),
)
def test_sound_records_survive_every_layout_with_their_line_numbers(tmp_path, rows, mark, newline, last, escape):
    lines = [json.dumps(row, ensure_ascii=escape).encode() for row in rows]
    expected = [(i, {**row, "question": ""}) for i, row in enumerate(rows, 1)]
    ending = newline if last else b""
    assert contents(write(tmp_path, mark + newline.join(lines) + ending)) == expected

    array = mark + b"[" + (b"," + newline).join(lines) + b"]" + ending
    assert contents(write(tmp_path, array, "array.jsonl")) == expected


def test_pretty_printed_array_gives_the_line_each_object_begins_on(tmp_path):
    text = json.dumps([GOOD, GOOD, {**GOOD, "answer": ""}], indent=2, ensure_ascii=False)
    path = write(tmp_path, text.encode())
    begins = [number for number, line in enumerate(text.split("\n"), 1) if line.strip() == "{"]
    assert complaint(read_records, path, FIELDS).startswith(f"{path}:{begins[2]}: field 'answer' is empty")
    assert [line for line, _ in contents(path, on_bad_data="skip")] == begins[:2]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'[\n{"a": 1}\n{"a": 2}\n]', "3: bad JSON at column 1 (expected ',' or ']')"),
        (b'[\n{"a": 1},\n', "3: bad JSON at column 1"),
        (b'[\n  {"a": }\n]', "2: bad JSON at column 9"),
        (b"[]\n[]", "2: bad JSON at column 1 (text after"),
        (b"[\n" + b"[" * 100_000, "2: bad JSON at column 1 (maximum recursion"),
    ],
)
def test_syntax_error_in_an_array_is_fatal_with_line_and_column(tmp_path, content, place):
    path = write(tmp_path, content)
    assert complaint(read_records, path, Fields((), ("b",)), "skip").startswith(f"{path}:{place}")


def test_absent_and_null_optional_fields_are_empty_and_other_keys_are_kept(tmp_path):
    path = write(
        tmp_path, b'{"context": "a", "answer": "b", "id": [1]}\n{"context": "a", "answer": "b", "question": null}'
    )
    first, second = read_records(path, FIELDS)[0]
    assert first.fields == {"context": "a", "answer": "b", "id": [1], "question": ""}
    assert second.fields["question"] == ""


def test_pairs_are_joined_line_by_line_from_either_file_or_the_stem(tmp_path):
    source = write(tmp_path, "一\u2028甲\n\n三\n".encode(), "set.v1.source")
    target = write(tmp_path, b"1\r\n\r\n3", "set.v1.target")
    expected = [(1, {"source": "一\u2028甲", "target": "1"}), (3, {"source": "三", "target": "3"})]
    for path in (source, target, tmp_path / "set.v1"):
        assert contents(path, Fields(("source", "target"))) == expected


def test_pairs_that_do_not_match_are_refused(tmp_path):
    fields = Fields(("source", "target"))
    source, target = write(tmp_path, b"a\nb\nc\n", "x.source"), write(tmp_path, b"1\n2\n", "x.target")
    assert complaint(read_records, source, fields, "skip").startswith(f"{source}:3: 3 lines, but {target} has 2;")
    target.write_bytes(b"1\n\n3\n")
    assert complaint(read_records, source, fields).startswith(f"{target}:2: this line is empty")
    assert [line for line, _ in contents(source, fields, on_bad_data="skip")] == [1, 3]
    target.unlink()
    assert complaint(read_records, source, fields).startswith(f"{target}: no such file")


def test_texts_are_read_one_a_line(tmp_path):
    path = write(tmp_path, '\ufeff第一行 \r\n\n{"不是": JSON}\n'.encode(), "prompts.txt")
    records, report = read_texts(path)
    assert [(r.line, r.fields) for r in records] == [(1, {"source": "第一行 "}), (3, {"source": '{"不是": JSON}'})]
    assert (report.read, report.blank) == (2, 1)
    path.write_bytes(b"good\nb\0d\n\xff\n")
    assert complaint(read_texts, path).startswith(f"{path}:2: ")
    assert dict(read_texts(path, "skip")[1].skipped) == {"NUL character": 1, "bad UTF-8": 1}


def test_records_are_streamed_not_read_ahead(tmp_path):
    path = write(tmp_path, GOOD_LINE + b"\nbroken\n")
    assert next(iter_records(path, FIELDS)).line == 1
    assert next(iter_texts(path)).line == 1


def test_splits_of_a_directory_or_a_file(tmp_path):
    assert "no train.json or dev.json" in complaint(find_splits, tmp_path)
    assert "no such file" in complaint(find_splits, tmp_path / "none")
    dev = write(tmp_path, GOOD_LINE, "dev.jsonl")
    assert find_splits(tmp_path) == {"train": None, "dev": dev}
    train = write(tmp_path, GOOD_LINE, "train.json")
    assert find_splits(str(tmp_path)) == {"train": train, "dev": dev}
    assert find_splits(train) == {"train": train, "dev": None}
    write(tmp_path, GOOD_LINE, "train.jsonl")
    assert "train.json and train.jsonl are both there" in complaint(find_splits, tmp_path)


def test_unknown_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="on_bad_data is 'ignore'"):
        read_records(write(tmp_path, GOOD_LINE), FIELDS, "ignore")


def test_data_error_passes_between_processes():
    error = pickle.loads(pickle.dumps(DataError("a:1: b; c", "bad JSON")))
    assert (str(error), error.reason) == ("a:1: b; c", "bad JSON")
