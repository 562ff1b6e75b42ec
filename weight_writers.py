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

    def write(self, array):
        """Write the next array. Raises ValueError if it is not of its shape."""
        name = self.names[len(self.checksums)]
        if tuple(array.shape) != tuple(self.shapes[name]):
            raise ValueError(f"{name} is {list(array.shape)}, not {list(self.shapes[name])}")
        content = memoryview(np.ascontiguousarray(array, self.dtype)).cast("B")
        self.checksums[name] = zlib.crc32(content)
        self.put(name, content)

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

    def put(self, name, content):
        """Write the bytes of an array."""
        self.file.write(content)

    def end(self):
        """Nothing comes behind the arrays."""


class PdparamsWriter(WeightsWriter):
    """A pickle (protocol 4) of a dict of NumPy arrays, as paddle.save writes one and paddle.load reads it."""

    def begin(self):
        """Protocol, and an empty dict."""
        self.file.write(b"\x80\x04}")

    def put(self, name, content):
        """Make an item of the dict: its key, an array that is made and filled as NumPy's own pickles do it."""
        kind = f"{self.dtype.kind}{self.dtype.itemsize}"
        make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        dtype = (
            b"cnumpy\ndtype\n" + text(kind) + b"\x89\x88\x87R(K\x03" + text("<") + b"NNN" + integer(-1) * 2 + b"K\x00tb"
        )
        shape = b"(" + b"".join(map(integer, self.shapes[name])) + b"t"
        self.file.write(text(name) + make + b"(K\x01" + shape + dtype + b"\x89\x8e" + struct.pack("<Q", len(content)))
        self.file.write(content)
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
