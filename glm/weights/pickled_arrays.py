"""Pickles of arrays, read without running or building anything that they ask for.

A pickle is a program for a machine with a stack. What it may call here are functions of this project alone, which
return plain values: no constructor and no state setter of a C library can be reached, for a dtype that NumPy builds can
be made to lie about what its bytes are. Numbers that a pickle states are compared with the size of its file, so that
few bytes cannot ask for much memory.
"""

import io
import math
import pickle
from typing import NamedTuple

import numpy as np

# What an array may be made of, as NumPy's pickles name it. Which of these weights may have is for the caller to say.
KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
# A model of 1,000 layers takes some 300,000 instructions.
MOST_INSTRUCTIONS = 1_000_000
MOST_DIMENSIONS = 8


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that weights are not made of."""


class Place(NamedTuple):
    """Where bytes lie in a file. No pickle can make one."""

    offset: int
    size: int


class StoredDtype:
    """A NumPy dtype as a pickle describes it: a kind of KINDS, and later the order of its bytes."""

    def __init__(self, kind):
        if not isinstance(kind, str) or kind not in KINDS:
            raise Refused(f"an array of {kind!r:.40} is nothing that weights are made of")
        self.kind, self.order = kind, "<"

    def set_state(self, state):
        """Take the state that NumPy gives a plain dtype: version, order of bytes, no parts, no sizes, no flags."""
        plain = isinstance(state, tuple) and len(state) >= 8 and state[1] in ("<", ">", "|", "=")
        if not plain or state[2:5] != (None, None, None) or state[5:8] not in ((-1, -1, 0), (0, 0, 0)):
            raise Refused("an array of a structured dtype or of objects is nothing that weights are made of")
        self.order = "<" if state[1] in "|=" else state[1]

    @property
    def numpy(self):
        """The dtype."""
        return np.dtype(self.order + self.kind)


class StoredArray:
    """An array of a pickle: shape, dtype, and its bytes, or the Place in the file where they are."""

    def set_state(self, state):
        """Take the state that NumPy gives an array. Raises Refused unless it has the bytes of its shape and dtype."""
        _, self.shape, dtype, self.is_fortran, self.content = state
        if not isinstance(dtype, StoredDtype) or not isinstance(self.content, (bytes, Place)):
            raise Refused("an array of Python objects is nothing that weights are made of")
        sizes = self.shape if isinstance(self.shape, tuple) and len(self.shape) <= MOST_DIMENSIONS else (-1,)
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise Refused(f"an array of shape {self.shape!r:.60}")
        self.dtype = dtype.numpy
        stored = self.content.size if isinstance(self.content, Place) else len(self.content)
        if math.prod(sizes) * self.dtype.itemsize != stored:
            raise Refused(f"an array of shape {list(sizes)} with {stored} bytes of {self.dtype}")

    def read(self, file):
        """The array; file: the pickle's own."""
        content = self.content
        if isinstance(content, Place):
            file.seek(content.offset)
            content = file.read(content.size)
        return np.frombuffer(content, self.dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


class ArrayUnpickler(pickle._Unpickler):
    """Reads a pickle of arrays: the bytes of large ones stay in the file. Raises Refused, or what unpicklers raise.

    The interpreter's own unpickler in C cannot be made to pass bytes over, nor to leave out what builds objects; its
    twin in Python can. CALLS: {(module, name): function} of what a pickle may call, or a value for what it may name.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    CALLS = {}

    def __init__(self, file, start=0):
        """file: one that can be searched; the pickle begins at `start`, and load() leaves the file behind its end."""
        super().__init__(file)
        self.file, self.size = file, file.seek(0, io.SEEK_END)
        file.seek(start)
        # Bytes that may still be made of those in the file.
        self.left = self.size
        self._file_read = self.read_what_is_there

    def load(self):
        """What the pickle describes."""
        self._unframer = pickle._Unframer(self._file_read, self._file_readline)
        self.read, self.readinto, self.readline = self._unframer.read, self._unframer.readinto, self._unframer.readline
        self.metastack, self.stack, self.proto = [], [], 0
        self.append = self.stack.append
        try:
            for _ in range(MOST_INSTRUCTIONS):
                self.dispatch[self.read(1)[0]](self)
        except pickle._Stop as stop:
            return stop.value
        raise Refused(f"more than {MOST_INSTRUCTIONS:,} instructions")

    def read_what_is_there(self, size):
        """Bytes of the file. Raises EOFError, before any memory is taken, if there are not so many."""
        if size > self.size - self.file.tell() or size < 0:
            raise EOFError("it ends too early")
        return self.file.read(size)

    def find_class(self, module, name):
        """The function that stands for what a pickle names."""
        if (module, name) not in self.CALLS:
            raise Refused(f"{module}.{name} is nothing that weights are made of")
        return self.CALLS[module, name]

    def persistent_load(self, pid):
        raise Refused("a reference to elsewhere is nothing that weights are made of")

    def call(self):
        """Replace a function and its arguments on the stack by what it returns."""
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is known for known in self.CALLS.values()) or not isinstance(arguments, tuple):
            raise Refused("a call of what was not named is nothing that weights are made of")
        self.stack[-1] = function(*arguments)
        if isinstance(self.stack[-1], bytes):
            self.left -= len(self.stack[-1])
            if self.left < 0:
                raise Refused("more bytes of arrays than the file has")

    def set_state(self):
        """Give the state on top of the stack to the array or dtype below it; what else there is has none to take."""
        state, owner = self.stack.pop(), self.stack[-1]
        if isinstance(owner, (StoredArray, StoredDtype)):
            owner.set_state(state)

    def set_items(self, items):
        """Set items of the dict on top of the stack. Keys are names: others could be made to collide."""
        owner = self.stack[-1]
        if type(owner) is not dict or not all(isinstance(key, str) for key in items[::2]):
            raise Refused("a key that is no name is nothing that weights are made of")
        owner.update(zip(items[::2], items[1::2], strict=True))

    def set_item(self):
        """Set the item on top of the stack."""
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def make_dict(self):
        """Make a dict of what lies above the mark."""
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    def refuse(self):
        """Refuse an instruction that makes objects in other ways, or takes memory before it reads."""
        raise Refused("an object is nothing that weights are made of")

    def pass_over(self, width):
        """Put bytes, whose size has `width` bytes, on the stack: their Place, unless they are in a frame, so few."""
        size = int.from_bytes(self.read(width), "little")
        if size > self.size:
            raise EOFError("it ends in the middle of an array")
        if self._unframer.current_frame is not None:
            self.append(self.read(size))
            return
        place = Place(self.file.tell(), size)
        if place.offset + size > self.size:
            raise EOFError("it ends in the middle of an array")
        self.append(place)
        self.file.seek(size, io.SEEK_CUR)

    dispatch[pickle.REDUCE[0]] = call
    dispatch[pickle.BUILD[0]] = set_state
    dispatch[pickle.SETITEM[0]] = set_item
    dispatch[pickle.SETITEMS[0]] = lambda self: self.set_items(self.pop_mark())
    dispatch[pickle.DICT[0]] = make_dict
    dispatch[pickle.BINBYTES[0]] = lambda self: self.pass_over(4)
    dispatch[pickle.BINBYTES8[0]] = lambda self: self.pass_over(8)


OTHER_WAYS = (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4)
OTHER_WAYS += (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEXT_BUFFER)
ArrayUnpickler.dispatch.update({code[0]: ArrayUnpickler.refuse for code in OTHER_WAYS})
