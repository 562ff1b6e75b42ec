"""Files of weights, written one array at a time: safetensors and .pdparams. The libraries' own writers want all arrays
in memory."""

import hashlib
import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from glm.files import manifest
from glm.ops.dtypes import WEIGHT_DTYPES, rounded


class WeightsWriter:
    """A file of weights, on disk when the context ends; its manifest need not read it then.

    shapes: name → shape, in the order in which the arrays come. dtype: one of WEIGHT_DTYPES, of all, or {name: dtype}.
    written: names of the arrays that are in the file.

    A format gives head(), and where it has any, what stands before and behind the bytes of each array, and at the end.
    """

    BEHIND_ARRAY = END = b""

    def __init__(self, path, shapes, dtype):
        self.shapes, self.written = shapes, []
        self.dtypes = {name: dtype[name] if isinstance(dtype, dict) else dtype for name in shapes}
        self.names = list(shapes)
        self.file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self.digest, self.size = hashlib.sha256(), 0
        self.hasher, self.forced = ThreadPoolExecutor(1), None
        self.put(self.head())

    def size_of(self, name):
        """Bytes of an array."""
        return int(np.prod(self.shapes[name], dtype=np.int64)) * WEIGHT_DTYPES[self.dtypes[name]].itemsize

    def before(self, name):
        """What stands before the bytes of an array."""
        return b""

    def write(self, *pieces):
        """Write the next array, given whole or as pieces that lie one after another along its first axis. Raises
        ValueError if it is not of its shape, and RangeError."""
        name = self.names[len(self.written)]
        shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
        if shape != tuple(self.shapes[name]):
            raise ValueError(f"{name} is {list(shape)}, not {list(self.shapes[name])}")
        self.put(self.before(name))
        for piece in pieces:
            self.put(memoryview(rounded(name, piece, self.dtypes[name]).reshape(-1).view(np.uint8)))
        self.put(self.BEHIND_ARRAY)
        self.written.append(name)

    def put(self, content):
        """Write bytes, and hash them meanwhile: both let other threads run."""
        hashed = self.hasher.submit(self.digest.update, content)
        self.file.write(content)
        self.size += len(content)
        hashed.result()

    def finish(self):
        """Write what stands at the end and begin to force the file to the disk. From now on it can be read."""
        self.put(self.END)
        self.file.flush()
        self.forced = self.hasher.submit(os.fsync, self.file.fileno())

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        with self.hasher, self.file:
            if kind is None:
                if self.forced is None:
                    self.finish()
                self.forced.result()
        if kind is None:
            manifest.remember(self.file.name, {"size": self.size, "sha256": self.digest.hexdigest()})


class SafetensorsWriter(WeightsWriter):
    """A safetensors file: a header of JSON that says where each array lies, then their bytes."""

    CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    # Whose layout the arrays have.
    LAYOUT = "np"

    def head(self):
        """The header."""
        header, offset = {"__metadata__": {"format": self.LAYOUT}}, 0
        for name, shape in self.shapes.items():
            end = offset + self.size_of(name)
            code = self.CODES[self.dtypes[name]]
            header[name] = {"dtype": code, "shape": list(map(int, shape)), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


class PyTorchSafetensorsWriter(SafetensorsWriter):
    """A safetensors file that PyTorch's libraries take for their own."""

    LAYOUT = "pt"


class PdparamsWriter(WeightsWriter):
    """A pickle (protocol 4) of a dict of NumPy arrays, as paddle.save writes one and paddle.load reads it: bfloat16 as
    its bits, whole numbers of 16."""

    KINDS = {"float32": "f4", "float16": "f2", "bfloat16": "u2"}
    # The opcodes that fill an array and set it as an item; and the end of a pickle.
    BEHIND_ARRAY, END = b"tbs", b"."

    def head(self):
        """Protocol, and an empty dict."""
        return b"\x80\x04}"

    def before(self, name):
        """The beginning of an item of the dict: its key, an array made as NumPy's own pickles make it."""
        make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        dtype = (
            b"cnumpy\ndtype\n"
            + text(self.KINDS[self.dtypes[name]])
            + b"\x89\x88\x87R(K\x03"
            + text("<")
            + b"NNN"
            + integer(-1) * 2
            + b"K\x00tb"
        )
        shape = b"(" + b"".join(map(integer, self.shapes[name])) + b"t"
        size = struct.pack("<Q", self.size_of(name))
        return text(name) + make + b"(K\x01" + shape + dtype + b"\x89\x8e" + size


def text(value):
    """The opcode that puts a string on a pickle's stack."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def integer(value):
    """The opcode that puts a number of 32 bits on a pickle's stack."""
    return b"J" + struct.pack("<i", value)
