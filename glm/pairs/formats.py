"""Pairs as other tools take them: SQuAD's layout, Alpaca's instructions, messages, a table of questions and answers.

Pairs are read from generate_pairs.py's file, or from a reviewer's: those that were not kept, or were rejected, are left
out.
"""

import csv
import json
from collections.abc import Callable, Iterator

from glm import json_text
from glm.data.records import iter_records
from glm.data.validation import DataError, Fields
from glm.files.guarded import product, whole_file

PAIR = Fields(("passage", "answer", "question"), ("document",))
READ_THIS = "阅读下面的材料，回答问题。"


def read_pairs(path) -> Iterator[dict]:
    """The pairs of a file that are kept, one at a time. Raises DataError."""
    for record in iter_records(path, PAIR):
        pair = record.fields
        if pair.get("kept", True) and pair.get("decision") != "rejected":
            yield {**pair, "place": record.place}


def convert(path, target, form: str, passages: bool = True) -> int:
    """Write a file's pairs in one of FORMATS; how many there were. passages: whether instructions and messages also
    have the passage to read. Raises DataError and RunError."""
    count = 0

    def counted():
        nonlocal count
        for pair in read_pairs(path):
            count += 1
            yield pair

    with product(target), whole_file(target) as file:
        FORMATS[form](counted(), file, passages)
    return count


def to_squad(pairs, file, passages) -> None:
    """{"version", "data": [{"title", "paragraphs": [{"context", "qas"}]}]} (SQuAD 1.1), pairs of one passage together
    where they stand together."""
    file.write('{"version": "1.1", "data": [')
    title = context = None
    for number, pair in enumerate(pairs):
        if pair["document"] != title or number == 0:
            file.write("]}]}, " if number else "")
            title, context = pair["document"], None
            file.write('\n{"title": ' + json_text.dumps(title) + ', "paragraphs": [')
            opening = ""
        else:
            opening = "]}, "
        if pair["passage"] != context:
            context = pair["passage"]
            file.write(opening + '\n {"context": ' + json_text.dumps(context) + ', "qas": [')
            opening = ""
        else:
            opening = ", "
        file.write(opening + "\n  " + json_text.dumps(squad_question(pair, number)))
    file.write("]}]}\n" if title is not None else "")
    file.write("]}\n")


def squad_question(pair: dict, number: int) -> dict:
    """A question of SQuAD's layout. Raises DataError where the answer does not stand in the passage."""
    start = pair.get("start", -1) - pair.get("passage_start", 0)
    if pair["passage"][max(start, 0) : max(start, 0) + len(pair["answer"])] != pair["answer"]:
        start = pair["passage"].find(pair["answer"])
    if start < 0:
        raise DataError(f"{pair['place']}: the answer does not stand in the passage, as SQuAD's do; mend or remove it")
    answers = [{"text": pair["answer"], "answer_start": max(start, 0)}]
    return {"id": str(pair.get("id", number)), "question": pair["question"], "answers": answers}


def to_alpaca(pairs, file, passages) -> None:
    """[{"instruction": question, "input": passage or "", "output": answer}] (stanford_alpaca)."""
    file.write("[")
    for number, pair in enumerate(pairs):
        given = pair["passage"] if passages else ""
        content = {"instruction": pair["question"], "input": given, "output": pair["answer"]}
        file.write((",\n " if number else "\n ") + json_text.dumps(content))
    file.write("\n]\n")


def to_messages(pairs, file, passages) -> None:
    """A line {"messages": [user, assistant]} for each pair, as chat templates take them."""
    for pair in pairs:
        asked = f"{READ_THIS}\n\n{pair['passage']}\n\n{pair['question']}" if passages else pair["question"]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": pair["answer"]}]
        file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def to_csv(pairs, file, passages) -> None:
    """A table with the columns question and answer."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["question", "answer"])
    for pair in pairs:
        writer.writerow([pair["question"], pair["answer"]])


FORMATS: dict[str, Callable] = {"squad": to_squad, "alpaca": to_alpaca, "messages": to_messages, "csv": to_csv}
