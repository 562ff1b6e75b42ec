"""A conversation on the terminal: prompts are asked for field by field, answers shown as they come."""

import sys

from errors import UserError
from templates import TEMPLATES, Example
from validation import validate

# What is asked for, by template: fields and their names for the reader.
FIELDS = {
    "qg": {"context": "上下文 context", "answer": "答案 answer"},
    "instruction": {"instruction": "指令 instruction"},
    "text": {"source": "文本 text"},
}


def converse(template, answer, read=input, write=None):
    """Ask for prompts until there are none (an empty first line, or the end of the input) and answer each.

    template: name in TEMPLATES. answer(example, write): writes what is generated for a templates.Example, piece by
    piece. read: asks for a line; raises EOFError at the end. write: shows text. A prompt that cannot be answered is
    told, and the next one asked for.
    """
    write = write or show
    write(f"{' → '.join(FIELDS[template].values())}；空行结束 / an empty line ends\n")
    number = 0
    while (record := ask(FIELDS[template], read)) is not None:
        number += 1
        try:
            fields = validate(record, TEMPLATES[template].fields(need_target=False), "prompt", number)
            example = Example(**TEMPLATES[template].prompt(fields), place=f"prompt:{number}")
            answer(example, write)
        except UserError as error:
            write(f"error: {error}")
        write("\n")


def ask(fields, read):
    """The fields of a prompt as a dict, None where the input ends or the first one is left empty."""
    record = {}
    for name, label in fields.items():
        try:
            record[name] = read(f"{label}: ").strip()
        except EOFError:
            return None
        if not record[name] and len(record) == 1:
            return None
    return record


def show(text):
    """Write to the screen at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
