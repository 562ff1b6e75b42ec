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


class TextStream:
    """Text of ids that come one by one. A character whose bytes are not all there yet is held back."""

    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.text = tokenizer, [], ""

    def add(self, piece):
        """What an id adds to the text."""
        self.ids.append(int(piece))
        text = self.tokenizer.decode(self.ids)
        if text.endswith("\N{REPLACEMENT CHARACTER}") or not text.startswith(self.text):
            return ""
        added, self.text = text[len(self.text) :], text
        return added

    def rest(self):
        """What was held back to the end."""
        return self.tokenizer.decode(self.ids)[len(self.text) :]
