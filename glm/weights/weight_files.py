"""Files of weights → arrays by name, one at a time: safetensors and .pdparams."""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from glm.ops.dtypes import BFLOAT16, WEIGHT_DTYPES
from glm.parallel.sharding import ROWS, axis_of
from glm.weights.pickled_arrays import ArrayUnpickler, StoredArray, StoredDtype

# Rows of a matrix that are hashed at a time.
HASHED = 256
SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Weights:
    """Arrays by name, handed out one at a time, so that a model's weights need not be in memory twice.

    shapes, dtypes: name → tuple, name → name of the dtype, known before any array is taken; only dtypes of
    WEIGHT_DTYPES can be taken. take: name → numpy array; it is not kept. parts: where the arrays are put together from
    tensor-parallel shards, the Weights of each rank.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    take: Callable[[str], np.ndarray]
    parts: tuple = ()

    def pieces(self, name):
        """The array in pieces that lie one after another, as a list; [it], where it does not consist of any."""
        if self.parts and axis_of(name) == ROWS:
            return [part.take(name) for part in self.parts]
        return [self.take(name)]


def fingerprinted(weights, fingerprint):
    """The same Weights, of which `fingerprint` (a dict) gets {"shape", "sha256"} by name as they are taken.

    The hash is that of the values in float32: a model is the same in whatever precision it is stored.
    """

    def take(name):
        array = weights.take(name)
        digest, rows = hashlib.sha256(), np.atleast_2d(array)
        # Not the whole array: it may be of half the bytes, and the largest thing in memory.
        for start in range(0, len(rows), HASHED):
            digest.update(memoryview(np.ascontiguousarray(rows[start : start + HASHED], dtype=np.float32)).cast("B"))
        fingerprint[name] = {"shape": list(array.shape), "sha256": digest.hexdigest()}
        return array

    return replace(weights, take=take, parts=())


def read_safetensors(path):
    """Weights of a .safetensors file. Arrays are views of the mapped file: what is not used is not read, and pages of
    it count as memory used only for as long as an array lives."""
    from safetensors import safe_open

    # The library checks that the file is whole and its header sound.
    with safe_open(str(path), framework="numpy"):
        pass
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)

    def take(name):
        dtype, start = WEIGHT_DTYPES[dtypes[name]], header[name]["data_offsets"][0]
        return np.memmap(path, dtype, "r", 8 + size + start, shapes[name])

    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"]) for name, entry in header.items()}
    return Weights(shapes, dtypes, take)


def read_pdparams(path):
    """Weights of a .pdparams file, each read when it is taken; nothing that its pickle asks for is run.

    paddle.save writes a dict of arrays, or of (name, array), as one pickle, and bfloat16 as whole numbers of 16 bits.
    Read as such, it would be in memory whole.
    """
    with open(path, "rb") as file:
        content = PdparamsUnpickler(file).load()
    if not isinstance(content, dict):
        raise ValueError("holds no dict of arrays")
    arrays = {name: value[1] if isinstance(value, tuple) else value for name, value in content.items()}
    arrays = {name: value for name, value in arrays.items() if isinstance(value, StoredArray)}

    def take(name):
        with open(path, "rb") as file:
            array = arrays[name].read(file)
        return array.view(BFLOAT16) if dtypes[name] == "bfloat16" else array

    dtypes = {name: "bfloat16" if array.dtype == np.uint16 else array.dtype.name for name, array in arrays.items()}
    return Weights({name: array.shape for name, array in arrays.items()}, dtypes, take)


class PdparamsUnpickler(ArrayUnpickler):
    """Reads the arrays of a .pdparams file as StoredArray."""

    CALLS = {
        ("collections", "OrderedDict"): lambda: {},
        ("builtins", "tuple"): lambda pair: pair,
        ("__builtin__", "tuple"): lambda pair: pair,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): lambda kind, *_: StoredDtype(kind),
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: StoredArray(),
        ("numpy._core.multiarray", "_reconstruct"): lambda *_: StoredArray(),
        # How protocol 2 spells bytes.
        ("__builtin__", "bytes"): lambda: b"",
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }
