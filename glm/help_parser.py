"""argparse whose pages and mistakes are in the reader's language. Only the standard library."""

import argparse
import re
import sys
import unicodedata

from glm.texts import described, language, said, translated

# What a line may break around: a run of narrow characters, or a wide one; marks stay with what they open or close.
OPENING, CLOSING = "[（“《]*", "[，。；：！？、）”》]*"
UNIT = re.compile(rf"\s+|{OPENING}(?:[\x21-\u2e7f]+|[^\x21-\u2e7f\s]){CLOSING}")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """The lines of --help: a description as it is written, helps wrapped."""

    def add_usage(self, usage, actions, groups, prefix=None):
        """Add the usage behind its heading."""
        super().add_usage(usage, actions, groups, said("usage: ") if prefix is None else prefix)

    def _split_lines(self, text, width):
        return super()._split_lines(text, width) if language() == "en" else wrapped(text, width)


class HelpParser(argparse.ArgumentParser):
    """An argument parser in the reader's language. description: English, as the table of texts has it."""

    def __init__(self, *args, description=None, **options):
        description = described(description) if description else None
        super().__init__(*args, description=description, formatter_class=HelpFormatter, add_help=False, **options)
        self._positionals.title, self._optionals.title = said("positional arguments"), said("options")
        self.add_argument("-h", "--help", action="help", help="show this help message and exit")

    def add_argument(self, *names, help=None, **options):
        """Add an argument; its help is English, as the table of texts has it."""
        return super().add_argument(*names, help=said(help) if help else help, **options)

    def _print_message(self, message, file=None):
        # From Python 3.11.5 on, argparse takes no notice of a pipe that nobody reads.
        if message:
            (file or sys.stderr).write(message)

    def error(self, message):
        """Tell a mistake under the usage and end with exit code 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {translated(f'error: {message}')}\n")


def columns(text):
    """Columns that a terminal needs for a text: two for a Chinese character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def wrapped(text, width):
    """A text as lines of so many columns at most, if no word is longer."""
    lines = [""]
    for unit in UNIT.findall(" ".join(text.split())):
        if columns(lines[-1] + unit) > width and lines[-1]:
            lines.append("")
        lines[-1] += unit if lines[-1] else unit.lstrip()
    return [line.rstrip() for line in lines]
