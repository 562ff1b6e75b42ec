"""Scores of pairs: against figures worked out by hand and definitions, and python -m glm.metrics of a file of pairs."""

import json

import numpy as np
import pytest

from glm import metrics
from glm.pairs import scores
from tests.helpers import ROOT
from tests.helpers.runs import read_lines

TEXT = "云栖湖在青岚山脚下。湖面海拔一千二百米。四月到六月观鸟。"


def pair(answer, question, exact=True, beam=True, f1=1.0, text=TEXT, **more):
    return {
        "document": "a.txt",
        "passage_start": 0,
        "passage": text,
        "start": text.find(answer),
        "answer": answer,
        "question": question,
        "round_trip": {"exact": exact, "beam": beam, "f1": f1},
        **more,
    }


PAIRS = [
    pair("青岚山", "云栖湖在哪座山脚下"),
    pair("青岚山", "云栖湖在哪座山脚下？", False, True, 0.5),
    pair("四月到六月", "什么时候观鸟", False, False, 0.0),
    pair("没有", "为什么观鸟", False, False, 0.0),
]


def test_scores_are_those_worked_out_by_hand():
    found = scores.scores(PAIRS)
    assert found["pairs"] == 4
    assert (found["consistency_exact"], found["consistency_beam"], found["consistency_f1"]) == (25, 50, 37.5)
    assert found["answers_in_passage"] == 75
    # One of the four questions is another one without its mark.
    assert (found["exact_duplicates"], found["near_duplicates"]) == (25, 25)
    # Answers stand in the first and the last of three sentences.
    assert found["sentence_coverage"] == pytest.approx(200 / 3)
    assert found["question_types"] == {
        "谁": 0, "何时": 25, "为什么": 25, "怎么": 0, "多少": 0, "哪": 50, "什么": 0, "其他": 0,
    }  # fmt: skip
    # 9 + 10 + 6 + 5 characters; different are 9 of the first, the mark, 什么时候观鸟 without none, 为.
    tokens = [list(one["question"]) for one in PAIRS]
    assert found["distinct_1"] == pytest.approx(100 * len(set(sum(tokens, []))) / len(sum(tokens, [])))
    bigrams = [pair for row in tokens for pair in zip(row, row[1:], strict=False)]
    assert found["distinct_2"] == pytest.approx(100 * len(set(bigrams)) / len(bigrams))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("谁写了这本书", "谁"),
        ("他何时出生", "何时"),
        ("什么时候开门", "何时"),
        ("哪一年出版", "何时"),
        ("湖有多少平方公里", "多少"),
        ("桥有几座", "多少"),
        ("为什么下雨", "为什么"),
        ("怎么去", "怎么"),
        ("在哪里", "哪"),
        ("这是什么", "什么"),
        ("是吗", "其他"),
    ],
)
def test_questions_are_of_the_type_that_they_ask_with(question, kind):
    assert scores.type_of(question) == kind


def test_self_bleu_is_high_where_questions_are_alike_and_low_where_they_are_not():
    alike = scores.self_bleu(["湖在哪座山的脚下"] * 3)
    different = scores.self_bleu(["湖在哪座山的脚下", "谁写了那本旧书", "何时开门迎客呢"])
    assert alike == pytest.approx(100)
    assert different < 20
    assert scores.self_bleu(["一个"]) is None


def test_aligned_f1_is_of_the_nearest_pairs_and_misses_count():
    references = [
        {"context": TEXT, "question": "云栖湖在哪座山脚下", "answer": "青岚山"},
        {"context": TEXT, "question": "海拔多少米", "answer": "一千二百米"},
        {"context": "另一段。", "question": "没有问到", "answer": "一"},
    ]
    found = scores.reference_scores(PAIRS[:1], references)
    assert found["qa_aligned_precision"] == pytest.approx(100)
    other = metrics.rouge_l(
        scores.TEXT.format_map(references[1]),
        scores.TEXT.format_map({"question": "云栖湖在哪座山脚下", "answer": "青岚山"}),
    )
    assert found["qa_aligned_recall"] == pytest.approx(100 * (1 + other + 0) / 3)
    p, r = found["qa_aligned_precision"], found["qa_aligned_recall"]
    assert found["qa_aligned_f1"] == pytest.approx(2 * p * r / (p + r))
    assert found["exact_match"] == 100
    with pytest.raises(ValueError, match="no passage of the pairs"):
        scores.reference_scores(PAIRS, references[2:])


def test_intervals_hold_the_mean_and_shrink_with_more_passages():
    rng = np.random.default_rng(0)

    def many(count):
        return [pair("青岚山", "问", bool(rng.random() < 0.5), text=f"{TEXT}{number}") for number in range(count)]

    widths = []
    for count in (20, 500):
        pairs = many(count)
        share = 100 * np.mean([one["round_trip"]["exact"] for one in pairs])
        low, high = scores.intervals(pairs, 1000)["consistency_exact"]
        assert low < share < high
        # Of the normal approximation.
        spread = (share * (100 - share) / count) ** 0.5
        assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def scored(path, capsys, *flags):
    """(exit code, what a file's scores are, what is said beside)."""
    code = metrics.main([str(path), *flags])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


@pytest.fixture
def file_of_pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in PAIRS), encoding="utf8")
    return path


def test_a_file_of_pairs_is_scored_and_told_apart_from_predictions(file_of_pairs, tmp_path, capsys):
    code, found, told = scored(file_of_pairs, capsys)
    assert code == 0
    assert found["judge"] == "itself"
    assert found["consistency_exact"] == 25
    assert "qa_aligned_f1: " in told
    references = tmp_path / "references.jsonl"
    records = [{"context": TEXT, "question": "云栖湖在哪座山脚下", "answer": "青岚山"}]
    references.write_text(json.dumps(records[0]) + "\n", encoding="utf8")
    code, found, _ = scored(file_of_pairs, capsys, "--references", str(references), "--bootstrap", "50")
    assert found["qa_aligned_recall"] == 100
    assert set(found["intervals_95"]) == {
        "consistency_exact",
        "consistency_beam",
        "consistency_f1",
        "answers_in_passage",
    }
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text('{"prediction": "一", "target": "一"}\n', encoding="utf8")
    assert scored(predictions, capsys)[1]["exact_match"] == 100
    assert scored(predictions, capsys, "--bootstrap", "5")[0] == 2
    assert scored(file_of_pairs, capsys, "--numbers")[0] == 2


def test_another_model_may_be_the_judge_and_the_scores_say_which(of_tasks, tmp_path, capsys):
    import generate_pairs

    made = tmp_path / "made.jsonl"
    document = tmp_path / "a.txt"
    contexts = [record["context"] for record in read_lines(ROOT / "demo" / "qg" / "dev.json")[:10]]
    document.write_text("\n".join(contexts), encoding="utf8")
    flags = ["--model_name_or_path", str(of_tasks), "--data_file", str(document), "--output_file", str(made)]
    generate_pairs.main([*flags, "--keep", "all", "--passage_length", "60", "--overlap", "0"])
    capsys.readouterr()
    _, own, _ = scored(made, capsys)
    _, again, _ = scored(made, capsys, "--judge_model", str(of_tasks))
    assert again.pop("judge") == str(of_tasks)
    own.pop("judge")
    assert again == own
    _, other, _ = scored(made, capsys, "--judge_model", "glm-tiny-chinese")
    assert other["judge"] == "glm-tiny-chinese"
    assert other["consistency_exact"] < own["consistency_exact"]
