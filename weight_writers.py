"""Files of weights, written one array at a time: safetensors and .pdparams. The libraries' own writers want all arrays
in memory."""

import json
import os
import struct
import zlib

import numpy as np


class WeightsWriter:
    """A file of weights, on disk when the context ends.

    shapes: name → shape, in the order in which the arrays come. dtype: "float32" or "float16", of all. checksums:
    {name: CRC-32 of the bytes} of what was written.
    """

    def __init__(self, path, shapes, dtype):
        self.shapes, self.dtype, self.checksums = shapes, np.dtype(dtype), {}
        self.names = list(shapes)
        self.file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self.begin()

    def write(self, *pieces):
        """Write the next array, given whole or as pieces that lie one after another along its first axis. Raises
        ValueError if it is not of its shape."""
        name = self.names[len(self.checksums)]
        shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
        if shape != tuple(self.shapes[name]):
            raise ValueError(f"{name} is {list(shape)}, not {list(self.shapes[name])}")
        self.start(name, int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize)
        checksum = 0
        for piece in pieces:
            content = memoryview(np.ascontiguousarray(piece, self.dtype)).cast("B")
            checksum = zlib.crc32(content, checksum)
            self.file.write(content)
        self.finish()
        self.checksums[name] = checksum

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        with self.file:
            if kind is None:
                self.end()
            self.file.flush()
            os.fsync(self.file.fileno())


class SafetensorsWriter(WeightsWriter):
    """A safetensors file: a header of JSON that says where each array lies, then their bytes."""

    CODES = {"float32": "F32", "float16": "F16"}

    def begin(self):
        """Write the header."""
        header, offset = {"__metadata__": {"format": "np"}}, 0
        for name, shape in self.shapes.items():
            end = offset + int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
            code = self.CODES[self.dtype.name]
            header[name] = {"dtype": code, "shape": list(map(int, shape)), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.file.write(struct.pack("<Q", len(text)) + text)

    def start(self, name, size):
        """Nothing comes before the bytes of an array."""

    def finish(self):
        """Nothing comes behind them."""

    def end(self):
        """Nothing comes behind the arrays."""


class PdparamsWriter(WeightsWriter):
    """A pickle (protocol 4) of a dict of NumPy arrays, as paddle.save writes one and paddle.load reads it."""

    def begin(self):
        """Protocol, and an empty dict."""
        self.file.write(b"\x80\x04}")

    def start(self, name, size):
        """Begin an item of the dict: its key, an array that is made and filled as NumPy's own pickles do it."""
        kind = f"{self.dtype.kind}{self.dtype.itemsize}"
        make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        dtype = (
            b"cnumpy\ndtype\n" + text(kind) + b"\x89\x88\x87R(K\x03" + text("<") + b"NNN" + integer(-1) * 2 + b"K\x00tb"
        )
        shape = b"(" + b"".join(map(integer, self.shapes[name])) + b"t"
        self.file.write(text(name) + make + b"(K\x01" + shape + dtype + b"\x89\x8e" + struct.pack("<Q", size))

    def finish(self):
        """Fill the array and set the item."""
        self.file.write(b"tbs")

    def end(self):
        """The end of a pickle."""
        self.file.write(b".")


def text(value):
    """The opcode that puts a string on a pickle's stack."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def integer(value):
    """The opcode that puts a number of 32 bits on a pickle's stack."""
    return b"J" + struct.pack("<i", value)
