"""Sets of questions in the layout of SQuAD, which CMRC 2018, DRCD and DuReader-robust have too: articles of paragraphs,
each with a context and "qas". Such a file is known by its shape, and every question of it becomes a record. Standard
library only.

    {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text"}, …]}]}]}]}

An array of articles or of paragraphs, or one on each line, is read too, and CMRC's own context_text and query_text.
"""

import json
import re
from collections.abc import Iterator
from functools import partial

from glm.data.text_lines import Candidate, bad, blank
from glm.data.validation import DataError, bad_record
from glm.files.json_array import first_item

KEY = "data"
# Field of a record → keys that it stands under.
CONTEXT, QUESTION, ID = ("context", "context_text"), ("question", "query_text"), ("id", "query_id")
# A key in a JSON text: inside of a string, quotes would have backslashes before them.
_QUESTION_KEY = re.compile(r'(?<!\\)"(?:question|query_text)"\s*:')


def is_set(path) -> bool:
    """Whether a JSON file is one object that holds articles."""
    return is_nested(first_item(path, KEY))


def is_nested(content) -> bool:
    """Whether a JSON value is an article or a paragraph with questions."""
    if not isinstance(content, dict):
        return False
    paragraphs = content.get("paragraphs", [content])
    return (
        isinstance(paragraphs, list)
        and bool(paragraphs)
        and all(isinstance(paragraph, dict) and isinstance(paragraph.get("qas"), list) for paragraph in paragraphs)
    )


def line_candidates(candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    """The questions of articles or paragraphs that are on a line each."""
    for path, line, parse in candidates:
        if parse is blank:
            yield path, line, blank
            continue
        try:
            item, _ = parse()
        except DataError as error:
            yield path, line, bad(error)
        else:
            yield from questions(item, path, line)


def questions(item, path, line: int, text: str = "") -> Iterator[Candidate]:
    """The questions of an article or a paragraph as records, each with the line of `text`, which begins on `line`, that
    it stands on."""
    if not is_nested(item):
        problem = "no paragraphs with a context and a list of qas here"
        yield path, line, bad(bad_record("not nested", path, line, problem, "write them as in the first item"))
        return
    found = [
        named(paragraph, question) for paragraph in item.get("paragraphs", [item]) for question in paragraph["qas"]
    ]
    places = list(key_lines(text, line))
    # Where a question lacks its key, lines cannot be told.
    places = places if len(places) == len(found) else [line] * len(found)
    for place, record in zip(places, found, strict=True):
        yield path, place, partial(as_it_is, record)


def key_lines(text: str, line: int) -> Iterator[int]:
    """The line of each question's key in a JSON text that begins on a line."""
    known = 0
    for key in _QUESTION_KEY.finditer(text):
        line += text.count("\n", known, key.start())
        known = key.start()
        yield line


def as_it_is(record):
    """A candidate's parser for what has been read already."""
    return record, None


def named(paragraph: dict, question):
    """A question as a record with context, question, id and answers; what is no object stays, for the complaint."""
    if not isinstance(question, dict):
        return question
    record = {name: question[name] for name in ("answer", "answers") if name in question}
    for field, keys, holder in (
        ("context", CONTEXT, paragraph),
        ("question", QUESTION, question),
        ("id", ID, question),
    ):
        value = next((holder[key] for key in keys if key in holder), None)
        if value is not None:
            record[field] = value
    return record


def with_first_answer(record: dict) -> dict:
    """A record with several "answers" (texts, objects with a "text", or lists of these under "text") and no "answer",
    with the first of them that has text as "answer"; and a pair of glm.pairs with its passage as "context"."""
    if "context" not in record and "passage_start" in record:
        record = {**record, "context": record.get("passage")}
    if record.get("answer") is not None or "answers" not in record:
        return record
    answers = record["answers"]
    if isinstance(answers, dict):
        answers = answers.get("text")
    answers = answers if isinstance(answers, list) else [answers]
    texts = (answer.get("text") if isinstance(answer, dict) else answer for answer in answers)
    first = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    return record if first is None else {**record, "answer": first}


def told_with_id(error: DataError, content) -> DataError:
    """An error about a record that may stand on a line with many others, with its id."""
    if not isinstance(content, dict) or "answers" not in content or content.get("id") is None:
        return error
    return DataError(f"{error} (id {json.dumps(content['id'], ensure_ascii=False)[:60]})", error.reason)
