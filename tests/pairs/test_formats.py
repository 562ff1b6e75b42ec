"""Pairs in other formats, read back by what people read them with; agreement; the commands."""

import csv
import json

import pytest

from glm.pairs.__main__ import main
from glm.pairs.agreement import agreement, kappa
from tests.helpers.runs import read_lines

PASSAGES = ["云栖湖在青岚山脚下，“湖面”海拔\n一千二百米。", "桥长九米，宽两米。"]


def pair(number, passage, answer, question, **more):
    start = 7 * passage + PASSAGES[passage].index(answer)
    return {
        "id": str(number),
        "document": f"文档{number // 3}.txt",
        "start": start,
        "end": start + len(answer),
        "passage_start": 7 * passage,
        "passage": PASSAGES[passage],
        "answer": answer,
        "question": question,
        "kept": True,
        **more,
    }


PAIRS = [
    pair(0, 0, "青岚山", "云栖湖在哪座山脚下"),
    pair(1, 0, "一千二百米", '海拔"多少"，准确吗'),
    pair(2, 1, "九米", "桥有多长"),
    pair(3, 1, "两米", "桥有多宽"),
    pair(4, 1, "两米", "没有留下", kept=False),
    pair(5, 1, "两米", "被拒绝", decision="rejected"),
]
KEPT = PAIRS[:4]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in PAIRS), encoding="utf8")
    return path


def converted(pairs, form, *flags):
    target = pairs.with_name(f"out.{form}")
    main(["convert", str(pairs), "--to", form, "--output_file", str(target), *flags])
    return target


def test_squad_is_read_by_datasets_and_every_answer_stands_where_it_is_said_to(pairs, tmp_path):
    import datasets

    path = converted(pairs, "squad")
    found = datasets.load_dataset("json", data_files=str(path), field="data", cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    questions = [
        (article["title"], paragraph["context"], qa)
        for article in found
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    assert [(title, context, qa["question"]) for title, context, qa in questions] == [
        (one["document"], one["passage"], one["question"]) for one in KEPT
    ]
    for one, (_, context, qa) in zip(KEPT, questions, strict=True):
        (answer,) = qa["answers"]
        assert answer["text"] == one["answer"]
        assert context[answer["answer_start"] :].startswith(answer["text"])
    assert [len(article["paragraphs"]) for article in found] == [2, 1]


def test_alpaca_and_messages_have_the_passage_or_not(pairs):
    found = json.loads(converted(pairs, "alpaca").read_text(encoding="utf8"))
    assert found == [{"instruction": p["question"], "input": p["passage"], "output": p["answer"]} for p in KEPT]
    found = json.loads(converted(pairs, "alpaca", "--without_passage").read_text(encoding="utf8"))
    assert {one["input"] for one in found} == {""}
    for flags, has in (([], True), (["--without_passage"], False)):
        for one, line in zip(KEPT, read_lines(converted(pairs, "messages", *flags)), strict=True):
            user, assistant = line["messages"]
            assert (user["role"], assistant["role"]) == ("user", "assistant")
            assert user["content"].endswith(one["question"])
            assert (one["passage"] in user["content"]) == has
            assert assistant["content"] == one["answer"]


def test_csv_is_read_by_csv(pairs):
    with open(converted(pairs, "csv"), encoding="utf8", newline="") as file:
        assert list(csv.DictReader(file)) == [{"question": p["question"], "answer": p["answer"]} for p in KEPT]


def test_pairs_are_a_training_file_as_they_are(pairs):
    """Of a reviewed file, what was rejected is left out."""
    from glm.data.selections import load_examples

    found, report = load_examples(pairs, "qg")
    assert [one.target for one in found] == [one["question"] for one in PAIRS[:5]]
    assert [one.context for one in found] == [one["passage"] for one in PAIRS[:5]]
    assert report.read == 5


@pytest.mark.parametrize(
    ("content", "flags", "told"),
    [
        ('{"passage": "甲"}\n', ["--to", "csv"], "pairs.jsonl:1: no field 'answer'"),
        ("x\n", ["--to", "csv"], "pairs.jsonl:1: bad JSON"),
        ('{"passage": "甲", "answer": "乙", "question": "丙"}\n', ["--to", "squad"], "does not stand in the passage"),
        ("", ["--to", "csv"], "no records in it"),
    ],
)
def test_bad_pairs_are_told_in_one_line_and_nothing_is_written(content, flags, told, tmp_path, capfd):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content, encoding="utf8")
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(path), *flags])
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_kappa_is_that_of_scikit_learn():
    from sklearn.metrics import cohen_kappa_score

    decisions = ("accepted", "edited", "rejected")
    for seed in range(20):
        import random

        rng = random.Random(seed)
        pairs = [(rng.choice(decisions), rng.choice(decisions)) for _ in range(rng.randint(5, 60))]
        assert kappa(pairs) == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
    assert kappa([("accepted", "accepted")] * 3) is None


def test_agreement_is_of_the_pairs_that_both_have_decided_on(tmp_path, capsys):
    first = {"a": "accepted", "b": "edited", "c": "rejected", "d": "accepted"}
    second = {"a": "accepted", "b": "accepted", "c": "accepted", "e": "rejected"}
    for name, decisions in (("one", first), ("two", second)):
        lines = [json.dumps({"id": pair, "decision": decision}) + "\n" for pair, decision in decisions.items()]
        (tmp_path / name).with_suffix(".jsonl").write_text("".join(lines))
    main(["agreement", str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")])
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "pairs": 3,
        "only_first": 1,
        "only_second": 1,
        "agreement": pytest.approx(33.3333),
        "kappa": 0.0,
        "kappa_of_kept": 0.0,
    }
    assert agreement(first, first)["kappa"] == 1
