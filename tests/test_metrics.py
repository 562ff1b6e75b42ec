"""Scores are compared with the definitions of BLEU and ROUGE, written out here over lists of tokens."""

import json
import math
import random
import subprocess
import sys
from collections import Counter

import jieba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm import metrics
from tests.helpers import ROOT

NAMES = set(metrics.SCORES)

# Few distinct characters, so that n-grams repeat and clipping matters.
texts = st.text(alphabet="山水问答的，", max_size=12)
pairs = st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=5)


def ngrams(tokens, n):
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def overlap(prediction, reference, n):
    return sum((ngrams(prediction, n) & ngrams(reference, n)).values())


def bleu4(samples):
    """Papineni et al. 2002 over a corpus; the k-th order without a match counts 1/2^k matches (NIST)."""
    if not any(overlap(p, r, 1) for p, r in samples):
        return 0.0
    log_precision, misses = 0.0, 0
    for n in (1, 2, 3, 4):
        matched = sum(overlap(p, r, n) for p, r in samples)
        total = sum(max(len(p) - n + 1, 0) for p, _ in samples)
        if total == 0:
            return 0.0
        if matched == 0:
            misses += 1
            matched = 0.5**misses
        log_precision += math.log(matched / total) / 4
    length, reference_length = (sum(len(sample[side]) for sample in samples) for side in (0, 1))
    return 100 * math.exp(log_precision + min(0.0, 1 - reference_length / length))


def f1(matched, predicted, expected):
    return 200 * matched / (predicted + expected) if matched else 0.0


def rouge_n(prediction, reference, n):
    return f1(overlap(prediction, reference, n), max(len(prediction) - n + 1, 0), max(len(reference) - n + 1, 0))


def rouge_l(prediction, reference):
    row = [0] * (len(reference) + 1)
    for token in prediction:
        above = row
        row = [0]
        for j, other in enumerate(reference):
            row.append(above[j] + 1 if token == other else max(row[j], above[j + 1]))
    return f1(row[-1], len(prediction), len(reference))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def characters(text):
    """The characters of a text that are no space, as metrics normalizes it."""
    return [character for character in metrics.normalize(text) if not character.isspace()]


def words_of(text):
    """Its words by jieba."""
    return [word for word in jieba.lcut(metrics.normalize(text)) if word.strip()]


def assert_scores_follow_definitions(samples, token_samples):
    scores = metrics.score([p for p, _ in samples], [r for _, r in samples])
    assert set(scores) == NAMES
    assert scores["bleu4"] == pytest.approx(bleu4(token_samples))
    assert scores["rouge1"] == pytest.approx(mean(rouge_n(p, r, 1) for p, r in token_samples))
    assert scores["rouge2"] == pytest.approx(mean(rouge_n(p, r, 2) for p, r in token_samples))
    assert scores["rougel"] == pytest.approx(mean(rouge_l(p, r) for p, r in token_samples))
    assert scores["char_bleu4"] == pytest.approx(bleu4([tuple(map(characters, sample)) for sample in samples]))
    words = [tuple(map(words_of, sample)) for sample in samples]
    assert scores["word_rouge1"] == pytest.approx(mean(rouge_n(p, r, 1) for p, r in words))
    assert scores["word_rouge2"] == pytest.approx(mean(rouge_n(p, r, 2) for p, r in words))
    assert scores["word_rougel"] == pytest.approx(mean(rouge_l(p, r) for p, r in words))


def test_scores_worked_out_by_hand():
    # Five characters, the last one differs: 4/5 · 3/4 · 2/3 · 1/2 = 1/5 for BLEU, no brevity penalty.
    scores = metrics.score(["甲乙丙丁戊"], ["甲乙丙丁己"])
    expected = {"bleu4": 100 * 0.2**0.25, "char_bleu4": 100 * 0.2**0.25, "rouge1": 80, "rouge2": 75, "rougel": 80}
    expected.update({name: scores[name] for name in metrics.WORD_ROUGE})
    assert scores == pytest.approx({**expected, "exact_match": 0})


def test_word_scores_worked_out_by_hand():
    # 北京 / 的 / 面积 / 是 / 多少 against 北京 / 的 / 人口 / 是 / 多少: 4 of 5 words, 2 of 4 pairs.
    scores = metrics.score(["北京的面积是多少"], ["北京的人口是多少"])
    assert (scores["word_rouge1"], scores["word_rouge2"], scores["word_rougel"]) == pytest.approx((80, 50, 80))


def test_a_latin_word_is_one_token_or_its_characters():
    # Of "GLM" and "GLN": no token alike, two of three characters; with 是什么 behind them, BLEU's 4-grams.
    scores = metrics.score(["GLM是什么模型"], ["GLN是什么模型"])
    tokens = [(["GLM", "是", "什", "么", "模", "型"], ["GLN", "是", "什", "么", "模", "型"])]
    assert scores["bleu4"] == pytest.approx(bleu4(tokens))
    assert scores["char_bleu4"] == pytest.approx(bleu4([(list("GLM是什么模型"), list("GLN是什么模型"))]))
    assert scores["char_bleu4"] != pytest.approx(scores["bleu4"])


def test_short_prediction_pays_the_brevity_penalty():
    scores = metrics.score(["我爱北京"], ["我爱北京城"])
    assert scores["bleu4"] == pytest.approx(100 * math.exp(-1 / 4))
    assert scores["rouge1"] == pytest.approx(100 * 8 / 9)


def test_rouge_l_sees_order_and_rouge_1_does_not():
    scores = metrics.score(["丁丙乙甲"], ["甲乙丙丁"])
    assert (scores["rouge1"], scores["rouge2"], scores["rougel"]) == pytest.approx((100, 0, 25))


@settings(max_examples=200, deadline=None)
@given(pairs)
def test_chinese_scores_follow_the_definitions_by_character(samples):
    # The full-width comma becomes an ASCII one, and stays a token of its own.
    assert_scores_follow_definitions(samples, [(list(p), list(r)) for p, r in samples])


def test_latin_words_and_numbers_are_single_tokens():
    samples = [
        ("GLM有10个参数", "GLM有12个参数"),
        ("iPhone 6多少钱？", "iphone 6要多少钱?"),
        ("圆周率是3.14吗", "圆周率约3.14吗"),
    ]
    token_samples = [
        (["GLM", "有", "10", "个", "参", "数"], ["GLM", "有", "12", "个", "参", "数"]),
        (["iPhone", "6", "多", "少", "钱", "?"], ["iphone", "6", "要", "多", "少", "钱", "?"]),
        (["圆", "周", "率", "是", "3.14", "吗"], ["圆", "周", "率", "约", "3.14", "吗"]),
    ]
    assert_scores_follow_definitions(samples, token_samples)


def test_identical_texts_score_100():
    questions = ["北京的面积有多大？", "GLM-10B 有多少层?", "1, 2 和 3.5 的和是多少"]
    assert metrics.score(questions, questions) == dict.fromkeys(NAMES, pytest.approx(100, abs=1e-9))
    assert max(metrics.score(questions, questions).values()) <= 100


def test_width_and_whitespace_make_no_difference():
    scores = metrics.score(["他说:是ABC吗? 对(1)"], [" 他说：是ＡＢＣ吗？\n对（１）\n"])
    assert scores == dict.fromkeys(NAMES, pytest.approx(100))


@pytest.mark.parametrize("reference", ["北京是什么", ""])
def test_empty_predictions_score_0(reference):
    assert metrics.score(["", " \n"], [reference] * 2) == dict.fromkeys(NAMES, 0)


def test_one_empty_prediction_among_right_ones_lowers_every_score():
    scores = metrics.score(["", "甲乙丙丁戊"], ["甲乙丙丁己", "甲乙丙丁戊"])
    assert scores["bleu4"] == pytest.approx(100 * math.exp(1 - 10 / 5))
    assert scores["char_bleu4"] == scores["bleu4"]
    assert {scores[name] for name in NAMES - {"bleu4", "char_bleu4"}} == {50}


@settings(max_examples=50, deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_order_of_samples_makes_no_difference(samples, generator: random.Random):
    shuffled = generator.sample(samples, len(samples))
    first, second = (metrics.score([p for p, _ in rows], [r for _, r in rows]) for rows in (samples, shuffled))
    assert first == pytest.approx(second)


def test_bad_lists_are_refused():
    with pytest.raises(ValueError, match="3 predictions but 2 references"):
        metrics.score(["甲"] * 3, ["甲"] * 2)
    with pytest.raises(ValueError, match="nothing to score"):
        metrics.score([], [])


def test_definition_names_the_tokenizer_and_every_score():
    text = metrics.definition()
    assert all(name in text for name in NAMES)
    assert "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp" in text


def test_importing_loads_no_scoring_library():
    heavy = "{'sacrebleu', 'rouge_score', 'nltk', 'paddle'}"
    code = f"import sys; from glm import metrics; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_script_prints_scores_of_a_file(tmp_path, capsys):
    path = tmp_path / "predictions.jsonl"
    rows = [{"source": "…", "prediction": "甲乙丙丁戊", "target": "甲乙丙丁己"}, {"prediction": "", "target": "问"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes(("\ufeff" + "\r\n\r\n".join(lines)).encode("utf-8"))
    assert metrics.main([str(path)]) == 0
    output = capsys.readouterr()
    expected = metrics.score([row["prediction"] for row in rows], [row["target"] for row in rows])
    assert json.loads(output.out) == pytest.approx(expected, abs=1e-4)
    assert output.err.strip() == metrics.definition()


@pytest.mark.parametrize(
    ("record", "reference"),
    [
        ({"context": "甲", "answer": "乙", "question": "问", "prediction": "p"}, "问"),
        ({"instruction": "甲", "output": "答", "prediction": "p"}, "答"),
        ({"source": "甲", "target": "丙", "question": "问", "output": "答", "prediction": "p"}, "丙"),
        ({"target": None, "question": "问", "prediction": "p"}, "问"),
        ({"target": "", "question": "问", "prediction": "p"}, ""),
    ],
)
def test_the_reference_is_found_under_the_records_own_name(tmp_path, record, reference):
    path = tmp_path / "predicted.jsonl"
    path.write_text(json.dumps(record), encoding="utf8")
    assert metrics.read_predictions(path) == (["p"], [reference])


GOOD = b'{"prediction": "a", "target": "b"}\n'


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (GOOD + b"\n{'prediction'", ":3:", "column 2"),
        (GOOD + b'{"prediction": "a"}', ":2:", '"target" is missing'),
        (b'{"prediction": null, "target": "b"}', ":1:", '"prediction" is NoneType'),
        (b'["a", "b"]', ":1:", "found list"),
        (GOOD * 2 + b'{"prediction": "\xff"}', ":3:", "byte 17"),
        (b"\n \n", ":", "no predictions"),
        (None, ":", "No such file"),
    ],
)
def test_bad_file_is_one_line_with_its_place(tmp_path, capsys, content, place, message):
    path = tmp_path / "predictions.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert metrics.main([str(path)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"{path}{place} ")
    assert message in output.err


def test_script_exits_with_2_on_a_bad_file(tmp_path):
    result = subprocess.run([sys.executable, "-m", "glm.metrics", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f"{tmp_path}: Is a directory")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12+7=19，所以一共有19个。答案：19", 19),
        ("还剩 -3.5 度。", -3.5),
        ("5-3=2", 2),
        ("10-3", 3),
        ("一共1,234.50元", 1234.5),
        ("占3/4", 0.75),
        ("增长了20%", 0.2),
        ("答案：１２．５", 12.5),
        ("先是3，后来没有了", 3),
        ("10/0", None),
        ("没有数字", None),
        ("", None),
    ],
)
def test_the_final_number_is_read_as_people_write_it(text, number):
    found = metrics.final_number(text)
    assert (found is None) == (number is None)
    assert found is None or float(found) == number


def test_number_match_counts_samples_whose_target_has_a_number():
    references = ["答案：19", "2.50", "没有", "1/2", "8"]
    predictions = ["12+7=19", "2.5元", "3", "0.5", ""]
    scores = metrics.score(predictions, references, numbers=True)
    assert scores["number_match"] == 75
    assert scores.keys() == {*metrics.ALL_SCORES}
    assert metrics.score(predictions, references).keys() == {*metrics.SCORES}
    assert "number_match" not in metrics.score(["3"], ["没有"], numbers=True)
    assert "number_match: " in metrics.definition(numbers=True)
    assert "number_match" not in metrics.definition()


def test_the_script_compares_numbers_if_asked(tmp_path, capsys):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"prediction": "是 4", "target": "4"}) + "\n", encoding="utf8")
    assert metrics.main([str(path), "--numbers"]) == 0
    assert json.loads(capsys.readouterr().out)["number_match"] == 100
    assert metrics.main([str(path)]) == 0
    assert "number_match" not in json.loads(capsys.readouterr().out)
