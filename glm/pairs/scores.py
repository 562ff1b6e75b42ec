"""Scores of pairs: how far their questions are answered, how much they repeat one another, what they cover; and with
references, how near they come to these."""

import re
from collections import Counter, defaultdict

import numpy as np

from glm import metrics
from glm.pairs.duplicates import Asked, plain
from glm.pairs.splitting import sentence_spans

# Of more questions, so many chosen by a fixed seed are compared with one another for self-BLEU.
SELF_BLEU_SAMPLE = 200
TYPES = {
    "谁": r"谁",
    "何时": r"何时|什么时候|什么时间|哪一?[年月日天]|几[月点日号]",
    "为什么": r"为什么|为何|怎么会",
    "怎么": r"怎么|怎样|如何",
    "多少": r"多少|几|多[长高大远重久深宽]",
    "哪": r"哪",
    "什么": r"什么|何",
}
OTHER = "其他"
TEXT = "question: {question}, answer: {answer}"


def scores(pairs: list[dict]) -> dict:
    """Scores without references, percentages from 0 to 100 if not said otherwise, of pairs as generate_pairs.py writes
    them; see definition(). Raises ValueError where there are none."""
    if not pairs:
        raise ValueError("there are no pairs to score")
    trips = [pair["round_trip"] for pair in pairs]
    questions = [pair["question"] for pair in pairs]
    return {
        "pairs": len(pairs),
        "consistency_exact": percentage(trip["exact"] for trip in trips),
        "consistency_beam": percentage(trip["beam"] for trip in trips),
        "consistency_f1": 100 * float(np.mean([trip["f1"] for trip in trips])),
        "answers_in_passage": percentage(pair["answer"] in pair["passage"] for pair in pairs),
        "distinct_1": distinct(questions, 1),
        "distinct_2": distinct(questions, 2),
        "self_bleu": self_bleu(questions),
        "exact_duplicates": 100 * (1 - len(set(map(plain, questions))) / len(questions)),
        "near_duplicates": near_duplicates(questions),
        "sentence_coverage": sentence_coverage(pairs),
        "question_types": question_types(questions),
    }


def percentage(values) -> float:
    """The share of values that hold, 0 to 100."""
    return 100 * float(np.mean(list(values)))


def tokens_of(text: str) -> list[str]:
    """The tokens of bleu4, see metrics.definition()."""
    return metrics.bleu_tokens(text)


def distinct(questions: list[str], size: int) -> float:
    """Of all n-grams of this size, the share of different ones (Li et al. 2016, arXiv:1510.03055)."""
    found = [tuple(tokens[i : i + size]) for tokens in map(tokens_of, questions) for i in range(len(tokens) - size + 1)]
    return 100 * len(set(found)) / len(found) if found else 0.0


def self_bleu(questions: list[str]) -> float | None:
    """Mean BLEU-4 of each question with all others as its references (Zhu et al. 2018, arXiv:1802.01886), of at most
    SELF_BLEU_SAMPLE; None of one alone."""
    if len(questions) < 2:
        return None
    if len(questions) > SELF_BLEU_SAMPLE:
        chosen = np.random.default_rng(0).choice(len(questions), SELF_BLEU_SAMPLE, replace=False)
        questions = [questions[number] for number in sorted(chosen)]
    return float(
        np.mean([metrics.sentence_bleu(one, questions[:i] + questions[i + 1 :]) for i, one in enumerate(questions)])
    )


def near_duplicates(questions: list[str]) -> float:
    """Share of questions that are near an earlier one, see duplicates."""
    asked, found = Asked(), 0
    for number, question in enumerate(questions):
        found += asked.find(question) is not None
        asked.add(str(number), question)
    asked.close()
    return 100 * found / len(questions)


def sentence_coverage(pairs: list[dict]) -> float:
    """Of the sentences of all passages, the share that an answer stands in."""
    passages = defaultdict(list)
    for pair in pairs:
        passages[pair.get("document", ""), pair.get("passage_start", 0), pair["passage"]].append(pair)
    covered = total = 0
    for (_, _, text), of_passage in passages.items():
        places = [(start, start + len(pair["answer"])) for pair in of_passage if (start := place_of(pair)) >= 0]
        for start, end in sentence_spans(text):
            total += 1
            covered += any(first < end and last > start for first, last in places)
    return 100 * covered / total if total else 0.0


def place_of(pair: dict) -> int:
    """Where in its passage a pair's answer begins, -1 where it is not there."""
    if "start" in pair and "passage_start" in pair:
        return pair["start"] - pair["passage_start"]
    return pair["passage"].find(pair["answer"])


def type_of(question: str) -> str:
    """What a question asks for: the first of TYPES that it has the words of, or OTHER."""
    return next((name for name, words in TYPES.items() if re.search(words, question)), OTHER)


def question_types(questions: list[str]) -> dict[str, float]:
    """Share of questions of each type."""
    found = Counter(map(type_of, questions))
    return {name: 100 * found[name] / len(questions) for name in (*TYPES, OTHER)}


def reference_scores(pairs: list[dict], references: list[dict]) -> dict:
    """Scores against reference pairs, of which a context may have several: qa_aligned_f1, and those of metrics.score()
    of each question and the one that it comes nearest to. Passages without references are left out.

    references: dicts with context, question and answer. Raises ValueError where no passage has any.
    """
    by_context = defaultdict(list)
    for reference in references:
        by_context[metrics.normalize(reference["context"])].append(reference)
    made = defaultdict(list)
    for pair in pairs:
        made[metrics.normalize(pair["passage"])].append(pair)
    known = [context for context in made if context in by_context]
    if not known:
        raise ValueError("no passage of the pairs is a context of the references")
    precision, recall, aligned = [], [], []
    for context in known:
        table = likeness(made[context], by_context[context])
        precision += table.max(axis=1).tolist()
        recall += table.max(axis=0).tolist()
        for pair, best in zip(made[context], table.argmax(axis=1), strict=True):
            aligned.append((pair["question"], by_context[context][best]["question"]))
    missed = [context for context in by_context if context not in made]
    recall += [0.0] * sum(len(by_context[context]) for context in missed)
    p, r = float(np.mean(precision)), float(np.mean(recall))
    return {
        "qa_aligned_precision": 100 * p,
        "qa_aligned_recall": 100 * r,
        "qa_aligned_f1": 100 * 2 * p * r / (p + r) if p + r else 0.0,
        **metrics.score(*map(list, zip(*aligned, strict=True))),
    }


def likeness(pairs: list[dict], references: list[dict]) -> np.ndarray:
    """ROUGE-L F1, 0 to 1, of each pair with each reference, [pairs, references], both as TEXT."""
    return np.array(
        [
            [metrics.rouge_l(TEXT.format_map(pair), TEXT.format_map(reference)) for reference in references]
            for pair in pairs
        ]
    )


def intervals(pairs: list[dict], draws: int, seed: int = 0) -> dict[str, list[float]]:
    """95 % intervals of the scores that are means over pairs, by the percentiles of so many bootstrap samples (Efron
    1979) of the passages."""
    passages = defaultdict(list)
    for pair in pairs:
        trip = pair["round_trip"]
        passages[pair["passage"]].append([trip["exact"], trip["beam"], trip["f1"], pair["answer"] in pair["passage"]])
    sums = np.array([np.sum(values, axis=0) for values in passages.values()], float)
    counts = np.array([len(values) for values in passages.values()], float)
    chosen = np.random.default_rng(seed).integers(0, len(sums), [draws, len(sums)])
    means = 100 * sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)[:, None]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    names = ("consistency_exact", "consistency_beam", "consistency_f1", "answers_in_passage")
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(names)}


DEFINITION = """\
consistency_exact, consistency_beam: percentage of pairs whose question the judge answers with the pair's answer, by its
best text or by one of its best; consistency_f1: mean F1 of characters of the two answers.
answers_in_passage: percentage of answers that stand in their passage.
distinct_1, distinct_2: different n-grams of all n-grams of questions, on the tokens of bleu4.
self_bleu: mean BLEU-4 of each question against all others, of at most 200.
exact_duplicates, near_duplicates: percentage of questions that are an earlier one in letters and digits, or whose runs
of 3 characters have a Jaccard index above 0.8 with an earlier one's.
sentence_coverage: percentage of the sentences of passages that have pairs which an answer stands in.
question_types: percentage of questions by the words that they ask with.
qa_aligned_f1: as lmqg's QAAlignedF1 (Ushio et al. 2023, arXiv:2305.17002), with ROUGE-L on the tokens of bleu4 for the
likeness of "question: …, answer: …": precision, the mean over pairs of the nearest reference of their passage; recall,
the mean over references of the nearest pair."""
