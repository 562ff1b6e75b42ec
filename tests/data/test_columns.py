"""Records of every kind of file are the same records, whatever their columns are called."""

import csv
import dataclasses
import io
import json
import sys
from types import SimpleNamespace

import pytest

from glm.data import kinds, records
from glm.data.columns import parse_columns
from glm.data.encoded_files import encode_file, fingerprint
from glm.data.records import Part, ReadReport
from glm.data.selections import Selection, load_examples, template_of
from glm.data.tokenization import Tokenizer
from glm.data.validation import DataError
from glm.errors import UserError
from glm.inference.arguments import PromptArguments
from glm.weights import builtin_model
from tests.helpers.answered import prompts_of

ROWS = [
    {"passage": "长桥建于一九九八年，\n两岸种着柳树。", "a": "一九九八年", "q": '何时"建成"的', "id": "1"},
    {"passage": "钟楼高三十米,顶上有铜钟。", "a": "三十米", "q": "钟楼多高", "id": "2"},
    {"passage": "店铺位于东街。", "a": "东街", "q": "店铺在哪", "id": "3"},
]
COLUMNS = ("context=passage", "answer=a,question=q")


def table_text(rows, delimiter):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_excel(path, sheets):
    import openpyxl

    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for title, rows in sheets.items():
        sheet = workbook.create_sheet(title)
        for row in rows:
            sheet.append(row)
    workbook.save(path)


def write(path, rows):
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".xlsx":
        write_excel(path, {"A": [list(rows[0]), *(list(row.values()) for row in rows)], "B": []})
    else:
        text = {
            ".json": lambda: json.dumps(rows, ensure_ascii=False),
            ".jsonl": lambda: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            ".csv": lambda: table_text(rows, ","),
            ".tsv": lambda: table_text(rows, "\t"),
        }[path.suffix]()
        path.write_bytes(("\ufeff" + text).encode())
    return path


def expected(rows):
    return [(f"答案：{row['a']}，上下文：{row['passage']}。在已知答案的前提下，问题：", row["q"]) for row in rows]


def found(path, template="qg", columns=COLUMNS, **more):
    examples, report = load_examples(path, template, columns=parse_columns(columns), **more)
    return [(example.source, example.target) for example in examples], report


@pytest.fixture(params=[".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx"])
def table(request, tmp_path):
    return write(tmp_path / f"train{request.param}", ROWS)


def test_a_record_is_the_same_in_every_format(table):
    assert found(table)[0] == expected(ROWS)
    assert records.count_records(table) == 3
    assert found(table, part=Part(frozenset([1])))[0] == expected(ROWS[1:2])
    assert found(table, part=Part(frozenset([1]), others=True))[0] == expected([ROWS[0], ROWS[2]])


def test_a_file_is_what_its_content_says(table, tmp_path):
    for name in ("data.txt", "data") if table.suffix in (".parquet", ".xlsx", ".json", ".jsonl") else ():
        (tmp_path / name).write_bytes(table.read_bytes())
        assert found(tmp_path / name)[0] == expected(ROWS)


def test_records_of_every_format_are_answered_from_a_file_and_from_standard_input(table, monkeypatch):
    flags = {"columns": list(COLUMNS)}
    for data_file in (str(table), "-"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(table.read_bytes())))
        examples, _ = prompts_of(PromptArguments(data_file=data_file, **flags))
        assert [(example.source, example.target) for example in examples] == expected(ROWS)


def test_a_table_is_known_by_its_head_where_its_name_says_nothing(tmp_path):
    path = tmp_path / "data"
    path.write_text("context,answer,question\n钟楼高三十米。,三十米,多高\n", encoding="utf8")
    assert found(path, columns=())[0] == [("答案：三十米，上下文：钟楼高三十米。。在已知答案的前提下，问题：", "多高")]
    path.write_text("context 和 answer,甲\n", encoding="utf8")
    assert kinds.kind_of(path) == kinds.TEXT


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx"])
def test_splits_of_every_format_are_found_in_a_directory(tmp_path, suffix):
    for name in ("train", "dev"):
        write(tmp_path / f"{name}{suffix}", ROWS)
    assert kinds.find_splits(tmp_path) == {split: tmp_path / f"{split}{suffix}" for split in ("train", "dev")}
    write(tmp_path / ("train.csv" if suffix != ".csv" else "train.tsv"), ROWS)
    with pytest.raises(DataError, match="are both there"):
        kinds.find_splits(tmp_path)


def test_a_wrong_column_names_its_nearest_neighbour_and_all_there_are(table):
    with pytest.raises(UserError) as caught:
        found(table, columns=["context=pasage", "answer=a", "question=q"])
    told = "no column 'pasage', did you mean 'passage'? (it has passage, a, q, id); mend --columns context=pasage"
    assert str(caught.value) == f"{table}: {told}"
    with pytest.raises(UserError, match="no field 'contxt', did you mean 'context'"):
        found(table, columns=["contxt=passage"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".xlsx"])
def test_a_table_without_the_columns_that_are_needed_is_told_once(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}", ROWS)
    for on_bad_data in ("error", "skip"):
        with pytest.raises(DataError, match=r"no column 'answer' .there are .*give the one .*--columns answer="):
            found(path, columns=["context=passage"], on_bad_data=on_bad_data)
    # What is asked for is not needed in prediction.
    assert len(found(path, columns=["context=passage", "answer=a"], need_target=False)[0]) == 3


@pytest.mark.parametrize(
    ("texts", "pairs"),
    [
        (["a=b"], (("a", "b"),)),
        (["a=b,c=d", "e=f"], (("a", "b"), ("c", "d"), ("e", "f"))),
        ([" a = b , c= d"], (("a", "b"), ("c", "d"))),
        (["a=b, c"], (("a", "b, c"),)),
        (["a=b=c"], (("a", "b=c"),)),
    ],
)
def test_columns_as_they_may_be_written(texts, pairs):
    assert parse_columns(texts) == pairs


@pytest.mark.parametrize(
    ("texts", "problem"),
    [(["a"], "write FIELD=COLUMN"), (["a="], "FIELD"), (["=b"], "FIELD"), (["a=b,a=c"], "a is given twice")],
)
def test_columns_that_say_nothing_are_refused(texts, problem):
    with pytest.raises(UserError, match=problem):
        parse_columns(texts)


def test_a_field_is_taken_from_its_column_alone(tmp_path):
    path = tmp_path / "data.jsonl"
    swapped = {"context": "三十米", "answer": "钟楼高三十米。", "question": "多高"}
    path.write_text(json.dumps(swapped) + "\n" + json.dumps({**swapped, "answer": None}) + "\n", encoding="utf8")
    columns = ["context=answer", "answer=context", "target=question"]
    with pytest.raises(DataError, match=r"data.jsonl:2: field 'context' is null"):
        found(path, columns=columns)
    pairs, _ = found(path, columns=columns, on_bad_data="skip")
    assert pairs == [("答案：三十米，上下文：钟楼高三十米。。在已知答案的前提下，问题：", "多高")]


def test_instructions_have_columns_too(tmp_path):
    rows = [{"ask": "写诗", "more": "春天", "reply": "春风"}, {"ask": "算", "more": "", "reply": "七"}]
    path = write(tmp_path / "data.csv", rows)
    columns = ["instruction=ask", "input=more", "output=reply"]
    assert found(path, "instruction", columns)[0] == [
        ("Human:写诗春天\nAssistant:", "春风"),
        ("Human:算\nAssistant:", "七"),
    ]
    assert template_of(path, "qg", parse_columns(columns)) == "instruction"
    dialog = [{"dialog": [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "乙"}]}]
    for suffix in (".parquet", ".jsonl"):
        path = write(tmp_path / f"dialog{suffix}", dialog)
        assert found(path, "instruction", ["messages=dialog"])[0] == [("Human:甲\nAssistant:", "乙")]


def test_columns_are_for_files_that_have_some(tmp_path):
    (tmp_path / "data.txt").write_text("甲\n", encoding="utf8")
    with pytest.raises(UserError, match="is plain text, which has no columns"):
        found(tmp_path / "data.txt", need_target=False)
    for suffix in (".source", ".target"):
        (tmp_path / f"data{suffix}").write_text("甲\n", encoding="utf8")
    with pytest.raises(UserError, match="is a pair, which has no columns"):
        found(tmp_path / "data.source")
    with pytest.raises(UserError, match="--data_file"):
        PromptArguments(columns=["a=b"])


def test_rows_that_are_kept_are_of_their_columns_and_prompt(tmp_path):
    rows = [{**row, "q2": f"{row['q']}呢"} for row in ROWS]
    path, tokenizer = write(tmp_path / "data.csv", rows), Tokenizer(builtin_model.build())
    first = Selection(path, "qg", columns=parse_columns(COLUMNS))
    others = [
        dataclasses.replace(first, columns=parse_columns(["context=passage", "answer=a", "question=q2"])),
        dataclasses.replace(first, prompt="{passage}问：", columns=parse_columns(["target=q"])),
        dataclasses.replace(first, prompt="{passage}问", columns=parse_columns(["target=q"])),
        dataclasses.replace(first, normalize="simplified"),
    ]
    assert len({fingerprint(selection, tokenizer, 60, 20) for selection in (first, *others)}) == 5
    stored = encode_file(first, tokenizer, 60, 20, cache_dir=tmp_path / "cache")
    assert [row.example.place for row in (stored[i] for i in range(3))] == [f"{path}:{line}" for line in (2, 4, 5)]


@pytest.mark.parametrize(
    ("suffix", "places"), [(".csv", "246"), (".tsv", "246"), (".parquet", "123"), (".xlsx", "234"), (".jsonl", "123")]
)
def test_a_bad_row_is_told_by_its_place_and_may_be_left_out(tmp_path, suffix, places):
    rows = [ROWS[0], {**ROWS[1], "a": "\n "}, ROWS[2]]
    path = write(tmp_path / f"data{suffix}", rows)
    with pytest.raises(
        DataError, match=rf"data{suffix}:{4 if suffix in ('.csv', '.tsv') else places[1]}: field 'a' holds only"
    ):
        found(path)
    pairs, report = found(path, on_bad_data="skip")
    assert pairs == expected([ROWS[0], ROWS[2]])
    assert dict(report.skipped) == {"empty field": 1}
    examples, _ = load_examples(path, "qg", columns=parse_columns(COLUMNS), on_bad_data="skip")
    assert [example.place for example in examples] == [f"{path}:{places[0]}", f"{path}:{places[2]}"]


@pytest.mark.parametrize(
    ("line", "reason", "problem"),
    [
        ("甲,乙,丙,丁", "wrong number of cells", "data.csv:3: 4 cells, but the head has 3"),
        ("甲,乙", "wrong number of cells", "data.csv:3: 2 cells"),
        ('"甲"乙,丙,丁', "bad CSV", "data.csv:3: bad CSV"),
        ("甲,\udcff,丙", "bad UTF-8", r"data.csv:3: byte 5 of the line \(0xff\) is not UTF-8"),
    ],
)
def test_a_bad_line_of_a_table_costs_that_line_alone(tmp_path, line, reason, problem):
    path = tmp_path / "data.csv"
    text = f"context,answer,question\n一,二,三\n{line}\n\n,,\n四,五,六\n{line}\n七,八,九\n"
    path.write_bytes(text.encode("utf8", "surrogateescape"))
    with pytest.raises(DataError, match=problem):
        found(path, columns=())
    examples, report = load_examples(path, "qg", on_bad_data="skip")
    assert [example.target for example in examples] == ["三", "六", "九"]
    assert (report.blank, dict(report.skipped)) == (2, {reason: 2})


def test_a_quote_that_never_ends_is_never_left_out(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('context,answer,question\n一,二,三\n"四,五,六\n七,八,九\n', encoding="utf8")
    with pytest.raises(DataError, match=r"data.csv:3: a quote that begins here never ends"):
        found(path, columns=(), on_bad_data="skip")


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_a_table_is_divided_by_what_its_head_is_divided_by(tmp_path, delimiter):
    (tmp_path / "data.csv").write_text(table_text(ROWS, delimiter), encoding="utf8")
    assert found(tmp_path / "data.csv")[0] == expected(ROWS)


def test_numbers_and_dates_of_typed_tables_are_what_they_are_shown_as(tmp_path):
    import datetime

    head = ["context", "answer", "question"]
    cells = [
        ["建于1998年", 1998, "何时"],
        ["高2.5米", 2.5, "多高"],
        ["开于1998-05-01", datetime.date(1998, 5, 1), "何日"],
    ]
    write_excel(tmp_path / "data.xlsx", {"A": [head, *cells]})
    examples, _ = load_examples(tmp_path / "data.xlsx", "qg")
    assert [example.keep for example in examples] == ["1998", "2.5", "1998-05-01"]


def test_of_several_sheets_none_is_chosen(tmp_path):
    write_excel(tmp_path / "data.xlsx", {"甲": [["context"], ["一"]], "乙": [["context"], ["二"]]})
    with pytest.raises(DataError, match=r"several sheets have something in them \(甲, 乙\)"):
        found(tmp_path / "data.xlsx")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("data.json", b"\x1f\x8b\x08\x00", "compressed by gzip; unpack it"),
        ("data.csv", b"\xff\xfea\x00", "is UTF-16"),
        ("data.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "of before 2007; save it as .xlsx"),
        ("data.xlsx", b"PK\x03\x04", "cannot be read as Excel or zip"),
        ("data.xlsx", b"a,b\n", "is no Excel file, whatever its name says"),
        ("data.parquet", b"a,b\n", "is no Parquet file"),
        ("data.parquet", b"PAR1" + b"\0" * 40, "cannot be read as Parquet"),
        ("data.parquet", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("data.csv", b"", "no records in it"),
        ("data.csv", b"context,answer,question\n", "no records in it"),
        ("data.csv", b"context,answer,answer\n1,2,3\n", "two columns are called 'answer'"),
        ("data.csv", b"context,answer\n1,2\n", "no column 'question'"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        list(Selection(tmp_path / name, "qg").examples(ReadReport("")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".xlsx", ".jsonl", ".json"])
def test_a_record_that_is_handed_on_is_as_its_file_has_it(tmp_path, suffix):
    import datetime

    typed = (
        {"n": 5, "date": datetime.date(1998, 5, 1)}
        if suffix in (".parquet", ".xlsx")
        else {"n": "5", "date": "1998-05-01"}
    )
    path = write(tmp_path / f"data{suffix}", [{**ROWS[0], **typed}])
    (example,), _ = load_examples(path, "qg", columns=parse_columns(COLUMNS), keep_records=True)
    assert json.loads(example.record) == {**ROWS[0], "n": typed["n"], "date": "1998-05-01"}


def test_cells_that_json_has_no_values_for_become_some(tmp_path):
    import pyarrow
    from pyarrow import parquet

    odd = {"context": "甲乙", "answer": "乙", "b": b"\xff", "f": float("nan"), "l": [1.5, None], "s": {"x": b"a"}}
    parquet.write_table(pyarrow.Table.from_pylist([odd]), tmp_path / "data.parquet")
    (example,), _ = load_examples(tmp_path / "data.parquet", "qg", need_target=False, keep_records=True)
    assert json.loads(example.record) == {**odd, "b": "\ufffd", "f": None, "s": {"x": "a"}}
