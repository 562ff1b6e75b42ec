"""Files of weights → arrays by name, one at a time: safetensors, .pdparams, and PyTorch's without PyTorch."""

import hashlib
import io
import json
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from zipfile import ZipFile

import numpy as np

from sharding import ROWS, axis_of

# Whole numbers, and bfloat16, which NumPy does not have and which is taken as its bits, are refused where they are
# used.
SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
SAFETENSORS_DTYPES |= {f"{sign}{8 * size}": f"<{sign.lower()}{size}" for sign in "UI" for size in (1, 2, 4, 8)}


@dataclass(frozen=True)
class Weights:
    """Arrays by name, handed out one at a time, so that a model's weights need not be in memory twice.

    shapes: name → tuple, known before any array is taken. take: name → numpy array; it is not kept. parts: where the
    arrays are put together from tensor-parallel shards, the Weights of each rank.
    """

    shapes: dict[str, tuple[int, ...]]
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
        values = np.ascontiguousarray(array, dtype=np.float32)
        digest = hashlib.sha256(memoryview(values).cast("B")).hexdigest()
        fingerprint[name] = {"shape": list(array.shape), "sha256": digest}
        return array

    return Weights(weights.shapes, take)


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
        entry = header[name]
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            raise ValueError(f"{name} is of type {entry['dtype']}")
        dtype, shape, start = SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"][0]
        return np.memmap(path, dtype, "r", 8 + size + start, shape)

    return Weights({name: tuple(entry["shape"]) for name, entry in header.items()}, take)


def read_pdparams(path):
    """Weights of a .pdparams file, each read when it is taken; nothing that its pickle asks for is run.

    paddle.save writes a dict of arrays, or of (name, array), as one pickle. Read as such, it would be in memory whole.
    """
    with open(path, "rb") as file:
        content = PdparamsUnpickler(file).load()
    if not isinstance(content, dict):
        raise ValueError("holds no dict of arrays")
    arrays = {name: value[1] if isinstance(value, tuple) else value for name, value in content.items()}
    arrays = {name: value for name, value in arrays.items() if isinstance(value, StoredArray)}

    def take(name):
        with open(path, "rb") as file:
            return arrays[name].read(file)

    return Weights({name: array.shape for name, array in arrays.items()}, take)


class StoredArray:
    """An array of a pickle: its shape, its dtype, and its bytes, or where in the file (offset, size) they are."""

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.is_fortran, self.content = state
        if self.dtype.hasobject:
            raise pickle.UnpicklingError("an array of Python objects is nothing that weights are made of")

    def read(self, file):
        """The array."""
        content = self.content
        if isinstance(content, tuple):
            file.seek(content[0])
            content = file.read(content[1])
        return np.frombuffer(content, self.dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


class PdparamsUnpickler(pickle._Unpickler):
    """Reads arrays as StoredArray and leaves their bytes in the file; refuses whatever else a pickle may do.

    The interpreter's own unpickler in C cannot be made to pass bytes over; its twin in Python can.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    KNOWN = {
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "tuple"): tuple,
        ("numpy", "ndarray"): StoredArray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: StoredArray(),
        ("numpy._core.multiarray", "_reconstruct"): lambda *_: StoredArray(),
        # How protocol 2 spells bytes.
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }

    def __init__(self, file):
        super().__init__(file)
        self.file = file

    def find_class(self, module, name):
        """What a pickle may call."""
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that weights are made of")
        return self.KNOWN[module, name]

    def pass_over(self, width):
        """Put bytes, whose size has `width` bytes, on the stack: where they are, unless they are in a frame, and so
        few."""
        size = int.from_bytes(self.read(width), "little")
        if self._unframer.current_frame is not None:
            self.append(self.read(size))
            return
        self.append((self.file.tell(), size))
        self.file.seek(size, io.SEEK_CUR)

    dispatch[pickle.BINBYTES[0]] = lambda self: self.pass_over(4)
    dispatch[pickle.BINBYTES8[0]] = lambda self: self.pass_over(8)


def read_pytorch(path):
    """Weights of a pytorch_model.bin, each read when it is taken.

    torch.save writes a zip file: data.pkl says of each tensor where it lies in which of the members data/0, data/1, ….
    Not by paddlenlp's load_torch, which takes a tensor with gaps for one without, and runs what a pickle asks for.
    """
    with ZipFile(path) as file:
        index = next(name for name in file.namelist() if name.endswith("data.pkl"))
        tensors = PyTorchUnpickler(io.BytesIO(file.read(index))).load()

    def take(name):
        (dtype, key), offset, shape, stride = tensors[name]
        with ZipFile(path) as file:
            storage = np.frombuffer(file.read(f"{index.removesuffix('data.pkl')}data/{key}"), dtype)[offset:]
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last >= storage.size or min(stride) < 0:
            raise ValueError(f"{name} reaches beyond what is stored of it")
        strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage, shape, strides, writeable=False)

    return Weights({name: tuple(tensor[2]) for name, tensor in tensors.items()}, take)


class PyTorchUnpickler(pickle.Unpickler):
    """Reads tensors as ((dtype, member), offset, shape, stride), in elements; refuses whatever else a pickle may do."""

    KNOWN = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *tensor: tensor[:4],
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("torch", "HalfStorage"): "float16",
        ("torch", "FloatStorage"): "float32",
        ("torch", "DoubleStorage"): "float64",
    }

    def find_class(self, module, name):
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that float16 or float32 weights are made of")
        return self.KNOWN[module, name]

    def persistent_load(self, pid):
        _, dtype, key, *_ = pid
        return dtype, key
