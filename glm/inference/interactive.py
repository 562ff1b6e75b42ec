"""A conversation on the terminal: prompts are asked for field by field, answers shown as they come."""

import sys

from glm.data import lost_text
from glm.data.preparation import DEFAULT
from glm.data.templates import NAMED, templates_of
from glm.data.validation import validate
from glm.errors import UserError, printable_lines
from glm.texts import said, translated

# What is asked for, by template: fields and their names for the reader, in English.
FIELDS = {
    "qg": {"context": "context", "answer": "answer"},
    "instruction": {"instruction": "instruction"},
    "text": {"source": "text"},
    "extract": {"context": "context"},
    "answer": {"context": "context", "question": "question"},
}


def converse(template, answer, preparation=DEFAULT, read=input, write=None):
    """Ask for prompts until there are none (an empty first line, or the end of the input) and answer each.

    template: name in NAMED. preparation: preparation.Preparation, whose prompt, if it has one, takes its place.
    answer(example, write): writes what is generated for a templates.Example, piece by piece. read: asks for a line;
    raises EOFError at the end. write: shows text. A prompt that cannot be answered is told, and the next one asked for.
    """
    write = write or show
    chosen = templates_of(preparation)["own"] if preparation.prompt else NAMED[template]
    # Of a prompt of one's own the placeholders are asked for.
    names = (*chosen.required, *chosen.optional) if preparation.prompt else ()
    asked = {name: name for name in names} or {name: said(label) for name, label in FIELDS[template].items()}
    write(said("{}; an empty line ends").format(" → ".join(asked.values())) + "\n")
    number = 0
    while (record := ask(asked, read)) is not None:
        number += 1
        try:
            fields = validate(record, chosen.fields(need_target=False), "prompt", number)
            answer(chosen.example(fields, place=f"prompt:{number}"), write)
        except UserError as error:
            write(translated(f"error: {error}"))
        write("\n")


def tell_lost(row, src_length, write):
    """Show what the model does not get to read of a prompt, examples.Encoded, if there is something."""
    if lost := lost_text.told([row], src_length):
        write(translated(f"note: {lost}") + "\n")


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
    sys.stdout.write(printable_lines(text))
    sys.stdout.flush()
