"""The items of a JSON array in a file, which may be a value of the object that the file is, one at a time: the file is
never in memory as a whole. Standard library only."""

import codecs
import json
import re

from glm.files import lines

# Bytes read at a time; more, where one item takes more.
BLOCK = 2**20
DECODER = json.JSONDecoder()
# What may follow a value, and the name of one.
VALUE_ENDS, NAME_ENDS = tuple(",]} \t\n\r"), tuple(": \t\n\r")
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


def array_items(path, key=None):
    """Yield (line, item, text) for each item of the array in a UTF-8 file, or of the array that the file's object has
    under a key: the line that it begins on, its value, and the text that this was read from.

    Raises ArrayError when it comes to what is wrong.
    """
    with open(path, "rb") as file:
        window = Window(file)
        if key is not None and not window.find(key):
            window.fail(f"expected {json.dumps(key)}")
        window.expect("[")
        while window.next_character() != "]":
            line = window.place()[0]
            yield line, *window.item()
            if window.next_character() == ",":
                window.position += 1
            elif window.next_character() != "]":
                window.fail("expected ',' or ']'")
        window.expect("]")
        if key is not None:
            window.expect_rest()
        if window.next_character():
            window.fail(f"text after the closing {']' if key is None else '}'!r}")


def first_item(path, key):
    """The first item of the array that the object in a file has under a key; None where there is none, or no such
    object."""
    try:
        with open(path, "rb") as file:
            window = Window(file)
            if not window.find(key):
                return None
            window.expect("[")
            window.next_character()
            return window.item()[0]
    except ArrayError:
        return None


class Window:
    """The part of a file's text that is being read. `position` is where reading stands in it."""

    def __init__(self, file):
        self.file, self.decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position, self.ended = "", 0, False
        # A position in the text whose line and column are known; those after it are counted from there, so that no
        # character is counted twice.
        self.known, self.line, self.column = 0, 1, 1

    def place(self, position=None):
        """(line, column) of a position in the text that is not before the last one asked for; default: the current."""
        position = self.position if position is None else position
        breaks = self.text.count("\n", self.known, position)
        if breaks:
            self.line += breaks
            self.column = position - self.text.rfind("\n", self.known, position)
        else:
            self.column += position - self.known
        self.known = position
        return self.line, self.column

    def fail(self, problem, position=None):
        """Raise ArrayError about a position in the text."""
        raise ArrayError(*self.place(position), problem)

    def read_on(self):
        """Forget the text before the position and read more; False if there is no more."""
        if self.ended:
            return False
        self.place()
        self.text, self.position, self.known = self.text[self.position :], 0, 0
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

    def find(self, key):
        """Move to the value that the file's object has under a key; whether it has one. Raises ArrayError."""
        self.expect("{")
        while self.next_character() == '"':
            name, _ = self.item(NAME_ENDS)
            self.expect(":")
            self.next_character()
            if name == key:
                return True
            self.item()
            if self.next_character() == ",":
                self.position += 1
        return False

    def expect_rest(self):
        """Move behind the object of which find() has found a value that has been read. Raises ArrayError."""
        while self.next_character() == ",":
            self.position += 1
            self.next_character()
            self.item(NAME_ENDS)
            self.expect(":")
            self.next_character()
            self.item()
        self.expect("}")

    def item(self, ends=VALUE_ENDS):
        """The JSON value that begins at the position, which moves behind it, and its text. ends: what may
        follow. Raises ArrayError."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.position)
                problem = None
            except json.JSONDecodeError as error:
                problem, end = error.msg, error.pos
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless nesting
                self.fail(str(error))
            # What is not whole may become so, and what looks whole may go on: "1" is the beginning of "1.5".
            followed = self.text[end : end + 1] in ends
            if (problem or not followed) and self.read_on():
                if len(self.text) > lines.limit() + BLOCK:
                    self.fail(lines.too_long()[0])
                continue
            if problem:
                self.fail(problem, end)
            begin, self.position = self.position, end
            return value, self.text[begin:end]
