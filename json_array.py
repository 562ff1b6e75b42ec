"""The items of a JSON array in a file, one at a time: the file is never in memory as a whole. Standard library only."""

import codecs
import json
import re

# Bytes read at a time; more, where one item takes more.
BLOCK = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")


class ArrayError(Exception):
    """The file is no JSON array. line, column: where, from 1; problem: what is wrong there."""

    def __init__(self, line, column, problem):
        super().__init__(problem)
        self.line, self.column, self.problem = line, column, problem


def begins_array(path):
    """Whether the first character of a file that is not white space is "["."""
    with open(path, "rb") as file:
        block = file.read(3).removeprefix(codecs.BOM_UTF8) or file.read(BLOCK)
        while block and not block.strip():
            block = file.read(BLOCK)
        return block.lstrip().startswith(b"[")


def array_items(path):
    """Yield (line, item) for each item of the array in a UTF-8 file; the line is the one that the item begins on.

    Raises ArrayError when it comes to what is wrong.
    """
    with open(path, "rb") as file:
        window = Window(file)
        window.expect("[")
        while window.next_character() != "]":
            line = window.place()[0]
            yield line, window.item()
            if window.next_character() == ",":
                window.position += 1
            elif window.next_character() != "]":
                window.fail("expected ',' or ']'")
        window.expect("]")
        if window.next_character():
            window.fail("text after the closing ']'")


class Window:
    """The part of a file's text that is being read. `position` is where reading stands in it."""

    def __init__(self, file):
        self.file, self.decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position, self.ended = "", 0, False
        # Where the first character of the text stands in the file.
        self.line, self.column = 1, 1

    def place(self, position=None):
        """(line, column) of a position in the text; default: of the current one."""
        before = self.text[: self.position if position is None else position]
        if "\n" not in before:
            return self.line, self.column + len(before)
        return self.line + before.count("\n"), len(before) - before.rfind("\n")

    def fail(self, problem, position=None):
        """Raise ArrayError about a position in the text."""
        raise ArrayError(*self.place(position), problem)

    def read_on(self):
        """Forget the text before the position and read more; False if there is no more."""
        if self.ended:
            return False
        self.line, self.column = self.place()
        self.text, self.position = self.text[self.position :], 0
        block = self.file.read(max(BLOCK, len(self.text)))
        try:
            self.text += self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            self.text += error.object[: error.start].decode("utf-8", "replace")
            self.fail(f"byte 0x{error.object[error.start]:02x} is not UTF-8", len(self.text))
        self.ended = not block
        return True

    def next_character(self):
        """The next character that is not white space, which the position moves to; "" at the end."""
        while True:
            self.position = _SPACE.match(self.text, self.position).end()
            if self.position < len(self.text) or not self.read_on():
                return self.text[self.position : self.position + 1]

    def expect(self, character):
        """Move behind a character. Raises ArrayError if it is not the next."""
        if self.next_character() != character:
            self.fail(f"expected {character!r}")
        self.position += 1

    def item(self):
        """The JSON value that begins at the position, which moves behind it. Raises ArrayError."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.position)
                problem = None
            except json.JSONDecodeError as error:
                problem, end = error.msg, error.pos
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless nesting
                self.fail(str(error))
            # What is not whole may become so, and what looks whole may go on: "1" is the beginning of "1.5".
            followed = self.text[end : end + 1] in tuple(",] \t\n\r")
            if (problem or not followed) and self.read_on():
                continue
            if problem:
                self.fail(problem, end)
            self.position = end
            return value
