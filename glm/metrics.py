"""BLEU, ROUGE and exact match for generated Chinese text, by characters and by words.

``python -m glm.metrics predictions.jsonl`` scores a file of predictions.
"""

import glm.runtime  # noqa: F401  silences the libraries below

import json
import os
import re
import sys
import unicodedata
from collections import Counter
from fractions import Fraction
from functools import lru_cache

from glm.errors import note, one_line_errors, printable
from glm.help_parser import HelpParser
from glm.texts import described
from glm.words import segmenter

# Bytes of a line with a prediction and its target.
LONGEST_LINE = 2**26

WORD_ROUGE = ("word_rouge1", "word_rouge2", "word_rougel")
SCORES = ("bleu4", "char_bleu4", "rouge1", "rouge2", "rougel", *WORD_ROUGE, "exact_match")
# With numbers=True.
ALL_SCORES = (*SCORES, "number_match")
# Of the other tasks of passages: recall of the known answers among the texts found; what answers are.
TASK_SCORES = ("extract_recall", "answer_exact_match", "answer_f1")
_NUMBER = re.compile(r"((?<![\w)])-)?(\d+(?:,\d{3})*(?:\.\d+)?)(?:/(\d+))?(%)?", re.ASCII)
# Where a line's reference is, the first of them that it has: what training calls it, or the record's own name for it.
REFERENCES = ("target", "question", "output")
EPILOG = """Each line of the file is an object with the string "prediction" and its reference: "target",
as the fine-tuning scripts leave in predictions.jsonl, or else "question" or "output", as
prediction and inference leave in the records that they answer. The scores (0-100) go to standard output as
JSON, their definition to standard error. A file of pairs, of generate_pairs.py, is
scored by how its questions are answered and what they cover. Exit code 2: bad arguments or a bad file."""


def score(predictions: list[str], references: list[str], numbers: bool = False) -> dict[str, float]:
    """Scores predictions against one reference each; what each score means stands in ``definition``.

    predictions, references: lists of n str. Returns a dict of floats from 0 to 100, named by SCORES. An empty
    prediction matches nothing. numbers: number_match too, for answers to exercises; left out where no reference holds a
    number.
    Raises ValueError when the lists are empty or differ in length.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} references; give one for each")
    if not predictions:
        raise ValueError("there is nothing to score; give at least one prediction")
    predictions = [normalize(text) for text in predictions]
    references = [normalize(text) for text in references]
    matches = sum(bool(p) and p == r for p, r in zip(predictions, references, strict=True))
    return {
        "bleu4": _bleu4(predictions, references),
        "char_bleu4": _bleu4(predictions, references, "char"),
        **_rouge(predictions, references, _character_tokenizer(), "rouge"),
        **_rouge(predictions, references, _WordTokenizer(), "word_rouge"),
        "exact_match": 100 * matches / len(predictions),
        **(_number_match(predictions, references) if numbers else {}),
    }


def normalize(text: str) -> str:
    """Brings text (str) to Unicode form NFKC, with single spaces inside and none around.

    The sentencepiece model of GLM-Large-Chinese does the same to every target it encodes (line breaks aside), so a
    model cannot write full-width punctuation: without this step even a perfect prediction of a target with a
    full-width question mark would be no exact match.
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def recall(found: list, references: list[str]) -> float:
    """Percentage of references that are among the texts found for them, each a sequence of str, both normalized."""
    hits = sum(
        normalize(reference) in map(normalize, texts) for texts, reference in zip(found, references, strict=True)
    )
    return 100 * hits / len(references)


def character_f1(prediction: str, reference: str) -> float:
    """F1, 0 to 1, of the characters of two texts, normalized, white space aside: what they share, each character as
    often as both have it, over what they have. As SQuAD's F1 (arXiv:1606.05250, section 6.1), with characters in the
    place of words."""
    ours, theirs = (Counter("".join(normalize(text).split())) for text in (prediction, reference))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def answer_scores(predictions: list[str], references: list[str]) -> dict[str, float]:
    """answer_exact_match and answer_f1, mean of character_f1(), as percentages."""
    pairs = list(zip(predictions, references, strict=True))
    exact = sum(normalize(prediction) == normalize(reference) for prediction, reference in pairs)
    f1 = sum(character_f1(prediction, reference) for prediction, reference in pairs)
    return {"answer_exact_match": 100 * exact / len(pairs), "answer_f1": 100 * f1 / len(pairs)}


def final_number(text: str) -> Fraction | None:
    """The last number in a text, None if there is none: 1,234 or 12.5, with a sign or a percent sign, or a/b.

    The text is normalized first. A sign counts only where no digit or letter stands before it.
    """
    found = _NUMBER.findall(normalize(text))
    if not found:
        return None
    sign, numerator, denominator, percent = found[-1]
    divisor = Fraction(denominator) if denominator else 1
    if not divisor:
        return None
    number = Fraction(numerator.replace(",", "")) / divisor / (100 if percent else 1)
    return -number if sign == "-" else number


def _number_match(predictions, references):
    """number_match as a dict, empty where no reference holds a number."""
    wanted = [(final_number(p), final_number(r)) for p, r in zip(predictions, references, strict=True)]
    wanted = [(found, number) for found, number in wanted if number is not None]
    matches = sum(found == number for found, number in wanted)
    return {"number_match": 100 * matches / len(wanted)} if wanted else {}


def definition(numbers: bool = False) -> str:
    """Says how the scores are computed, as lines of text with the versions of the libraries; numbers: as for
    score()."""
    from importlib.metadata import version

    by_token, by_character = _bleu_metric(), _bleu_metric("char")
    for metric in (by_token, by_character):
        metric.corpus_score(["x"], [["x"]])  # the signature has the number of references, unknown before a first score
    number_match = """
number_match: percentage of equal final numbers, among samples whose target holds a number."""
    return f"""\
All scores: 0-100, both sides in Unicode NFKC with runs of whitespace made one space, case kept.
Tokens: sacrebleu's "zh" tokens: each Chinese character or punctuation mark is one, a Latin word or a number is one.
bleu4: corpus BLEU-4, {by_token.get_signature()}; 0 when no prediction has four tokens.
char_bleu4: the same with each character as a token, of Latin words and numbers too, {by_character.get_signature()}.
rouge1, rouge2, rougel: F1 by rouge-score {version("rouge-score")} on the tokens of bleu4, mean over the samples.
word_rouge1, word_rouge2, word_rougel: the same on words by jieba {version("jieba")}.
exact_match: percentage of predictions equal to their target as a whole string.{number_match if numbers else ""}"""


def _bleu_metric(tokens="zh"):
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokens)


def bleu_tokens(text: str) -> list[str]:
    """The tokens of bleu4 of a text."""
    return _character_tokenizer().tokenize(normalize(text))


def sentence_bleu(prediction: str, references: list[str]) -> float:
    """BLEU-4, 0 to 100, of one text with several references; short texts are smoothed as sacrebleu does it."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize="zh", effective_order=True)
    return float(metric.sentence_score(normalize(prediction), list(map(normalize, references))).score)


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1, 0 to 1, on the tokens of bleu4."""
    return _rouge([normalize(prediction)], [normalize(reference)], _character_tokenizer(), "")["l"] / 100


@lru_cache
def _character_tokenizer():
    return _CharacterTokenizer()


def _bleu4(predictions, references, tokens="zh"):
    # Rounding inside sacrebleu may end at 100.00000000000004.
    return min(100.0, float(_bleu_metric(tokens).corpus_score(predictions, [references]).score))


class _CharacterTokenizer:
    """rouge-score's tokenizer interface over BLEU's tokens; its own tokenizer drops all Chinese text."""

    def __init__(self):
        self._tokenize = _bleu_metric().tokenizer

    def tokenize(self, text):
        return self._tokenize(text).split()


class _WordTokenizer:
    """rouge-score's tokenizer interface over jieba's words."""

    def tokenize(self, text):
        return [word for word in segmenter().lcut(text) if not word.isspace()]


def _rouge(predictions, references, tokenizer, prefix):
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L on a tokenizer's tokens, as {prefix + "1": …}."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = {"1": "rouge1", "2": "rouge2", "l": "rougeL"}
    scorer = RougeScorer(list(kinds.values()), tokenizer=tokenizer)
    scores = [scorer.score(target=r, prediction=p) for p, r in zip(predictions, references, strict=True)]
    return {prefix + end: 100 * sum(s[kind].fmeasure for s in scores) / len(scores) for end, kind in kinds.items()}


def read_predictions(path: str) -> tuple[list[str], list[str]]:
    """Reads a JSON Lines file into two lists of str, the predictions and the references; blank lines are skipped.

    Raises ValueError with one line, "path:line: what is wrong; what to do", and OSError.
    """
    predictions, targets = [], []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            prediction, target = _parse_line(line)
        except ValueError as error:
            raise ValueError(printable(f"{path}:{number}: {error}")) from None
        predictions.append(prediction)
        targets.append(target)
    if not predictions:
        raise ValueError(f"{path}: holds no predictions; give a file of JSON Lines")
    return predictions, targets


def _lines(path):
    """The lines of a file, cut behind the longest that can be a prediction."""
    with open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE + 1):
            yield line


def _parse_line(line):
    if len(line) > LONGEST_LINE:
        raise ValueError(f"more than {LONGEST_LINE:,} bytes; write one object a line")
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at column {error.colno} ({error.msg}); write one object a line") from None
    except (ValueError, RecursionError):
        reason = "a number of thousands of digits, or brackets in brackets"
        raise ValueError(f"not JSON ({reason}); write one object a line") from None
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}; write one object a line")
    reference = next((field for field in REFERENCES if record.get(field) is not None), REFERENCES[0])
    for field in ("prediction", reference):
        if field not in record:
            needed = '"prediction", and "target", "question" or "output"'
            raise ValueError(f'"{field}" is missing; a line needs the strings {needed}')
        if not isinstance(record[field], str):
            raise ValueError(f'"{field}" is {type(record[field]).__name__}, not a string; make it a string')
    return record["prediction"], record[reference]


def main(arguments=None) -> int:
    """Scores the file named in the arguments (list of str); returns the exit code, 0 or 2."""
    parser = HelpParser(
        prog="python -m glm.metrics", description="Score generated Chinese text: BLEU-4, ROUGE, exact match."
    )
    parser.epilog = described(EPILOG)
    parser.add_argument(
        "file",
        type=os.path.expanduser,
        metavar="predictions.jsonl",
        help="JSON Lines with prediction and reference",
    )
    parser.add_argument("--numbers", action="store_true", help="compare the final numbers, too")
    parser.add_argument("--references", help="of pairs: data with context, question and answer to compare them with")
    parser.add_argument(
        "--bootstrap", type=int, default=0, help="of pairs: samples for intervals of 95 %%; 1000 is usual"
    )
    parser.add_argument("--judge_model", help="of pairs: directory of a model that answers in place of their own")
    parsed = parser.parse_args(arguments)
    path = parsed.file
    if is_pairs(path):
        return score_pairs(parsed)
    for flag in ("references", "bootstrap", "judge_model"):
        if getattr(parsed, flag):
            note(f"--{flag} is for a file of pairs, of generate_pairs.py, and {path} is none; leave it out")
            return 2
    try:
        predictions, targets = read_predictions(path)
    except OSError as error:
        note(f"{path}: {error.strerror}; give a readable JSON Lines file")
        return 2
    except ValueError as error:
        note(error)
        return 2
    scores = score(predictions, targets, parsed.numbers)
    print(json.dumps({name: round(value, 4) for name, value in scores.items()}, indent=2))
    note(definition(parsed.numbers))
    return 0


def is_pairs(path) -> bool:
    """Whether a file's first line is a pair of generate_pairs.py."""
    try:
        with open(path, "rb") as file:
            first = json.loads(file.readline(2**20))
        return isinstance(first, dict) and "round_trip" in first and "passage" in first
    except (OSError, ValueError, RecursionError):
        return False


def score_pairs(parsed) -> int:
    """Scores the pairs of a file; returns the exit code."""
    from glm.pairs import scoring

    if parsed.numbers:
        note("--numbers is for predictions, and this is a file of pairs; leave it out")
        return 2
    try:
        scoring.show(scoring.of_file(parsed.file, parsed.references, parsed.bootstrap, parsed.judge_model))
    except ValueError as error:
        note(error)
        return 2
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
