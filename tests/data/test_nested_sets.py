"""Sets in the layout of SQuAD are known by their shape: every question is a record."""

import json

import pytest

from glm.data import records, selections
from glm.data.columns import parse_columns
from glm.data.records import Part
from glm.data.validation import DataError

BRIDGE, TOWER = "长桥建于一九九八年，两岸种着柳树。", "钟楼高三十米，顶上有一口铜钟。"
ARTICLES = [
    {
        "title": "桥",
        "paragraphs": [
            {
                "context": BRIDGE,
                "qas": [
                    {
                        "id": "1",
                        "question": "何时",
                        "answers": [{"text": "一九九八年", "answer_start": 4}, {"text": "98年"}],
                    },
                    {"id": "2", "question": '种着"什么": 树', "answers": [{"text": ""}, {"text": "柳树"}]},
                ],
            }
        ],
    },
    {
        "title": "钟楼",
        "paragraphs": [{"context": TOWER, "qas": [{"id": "3", "question": "多高", "answers": ["三十米"]}]}],
    },
]
EXPECTED = [(BRIDGE, "一九九八年", "何时"), (BRIDGE, "柳树", '种着"什么": 树'), (TOWER, "三十米", "多高")]
TRIAL = [
    {
        "context_id": "T",
        "context_text": paragraph["context"],
        "title": article["title"],
        "qas": [
            {
                "query_id": qa["id"],
                "query_text": qa["question"],
                "answers": [getattr(a, "get", lambda _, a=a: a)("text") for a in qa["answers"]],
            }
            for qa in paragraph["qas"]
        ],
    }
    for article in ARTICLES
    for paragraph in article["paragraphs"]
]
FLAT = [{"context": c, "question": q, "answers": {"text": [a, "x"], "answer_start": [0, 0]}} for c, a, q in EXPECTED]
LAYOUTS = {
    "set": {"version": "v1", "data": ARTICLES},
    "data first": {"data": ARTICLES, "version": {"data": [1]}, "note": None},
    "array of articles": ARTICLES,
    "array of paragraphs": [paragraph for article in ARTICLES for paragraph in article["paragraphs"]],
    "lines of articles": ARTICLES,
    "CMRC's trial": TRIAL,
    "flat": FLAT,
}


def write(path, name, indent=None):
    content = LAYOUTS[name]
    if name == "lines of articles":
        text = "".join(json.dumps(article, ensure_ascii=False) + "\n" for article in content)
    else:
        text = json.dumps(content, ensure_ascii=False, indent=indent)
    path.write_text(text, encoding="utf8")
    return path


def triples(path, **more):
    examples, report = selections.load_examples(path, "qg", **more)
    return [(example.context, example.keep, example.target) for example in examples], report


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["data.json", "data.txt"])
def test_every_question_is_a_record_with_its_first_answer(tmp_path, layout, indent, name):
    path = write(tmp_path / name, layout, indent)
    assert triples(path)[0] == EXPECTED
    assert records.count_records(path) == 3
    assert triples(path, part=Part(frozenset([0, 2])))[0] == [EXPECTED[0], EXPECTED[2]]
    assert selections.template_of(path, "text") == "qg"


@pytest.mark.parametrize("layout", ["set", "data first", "array of articles", "array of paragraphs", "CMRC's trial"])
def test_a_question_is_told_by_the_line_that_it_stands_on(tmp_path, layout):
    path = write(tmp_path / "data.json", layout, indent=1)
    lines = path.read_text(encoding="utf8").split("\n")
    examples, _ = selections.load_examples(path, "qg")
    assert [example.record_id for example in examples] == ["1", "2", "3"]
    for example in examples:
        line = lines[int(example.place.rpartition(":")[2]) - 1]
        assert json.dumps(example.target, ensure_ascii=False) in line


def test_a_question_without_an_answer_is_a_bad_record_told_with_its_id(tmp_path):
    paragraph = {
        "context": TOWER,
        "qas": [{"id": "8", "question": "无解", "answers": []}, *ARTICLES[1]["paragraphs"][0]["qas"]],
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}, ensure_ascii=False), encoding="utf8")
    with pytest.raises(DataError, match=r"""data.json:1: no field 'answer' .*\(id "8"\)"""):
        triples(path)
    found, report = triples(path, on_bad_data="skip")
    assert found == EXPECTED[2:]
    assert dict(report.skipped) == {"missing field": 1}


def test_what_is_broken_in_a_set_is_told_by_its_line(tmp_path):
    path = write(tmp_path / "data.json", "set", indent=1)
    text = path.read_text(encoding="utf8")
    path.write_text(text[:-2], encoding="utf8")
    with pytest.raises(DataError, match=rf"data.json:{text.count(chr(10))}: bad JSON"):
        triples(path)
    path.write_text(json.dumps({"data": [*ARTICLES, {"title": "无"}, 5]}, ensure_ascii=False), encoding="utf8")
    found, report = triples(path, on_bad_data="skip")
    assert found == EXPECTED
    assert dict(report.skipped) == {"not nested": 2}


def test_a_record_that_merely_has_such_a_field_is_no_set(tmp_path):
    record = {"data": [{"paragraphs": 1}], "context": TOWER, "answer": "三十米", "question": "多高"}
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(record)}\n{json.dumps(record)}\n", encoding="utf8")
    assert triples(tmp_path / "data.jsonl")[0] == [EXPECTED[2]] * 2


def test_questions_may_be_answered_as_well(tmp_path):
    path = write(tmp_path / "data.json", "set")
    examples, _ = selections.load_examples(
        path, "qg", columns=parse_columns(["target=answer"]), prompt="{context}问：{question}答："
    )
    assert [(example.source, example.target) for example in examples] == [
        (f"{context}问：{question}答：", answer) for context, answer, question in EXPECTED
    ]
