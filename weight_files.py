"""Files of weights → arrays by name, one at a time: safetensors, .pdparams, and PyTorch's without PyTorch."""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from zipfile import ZipFile

import numpy as np


@dataclass(frozen=True)
class Weights:
    """Arrays by name, handed out one at a time, so that a model's weights need not be in memory twice.

    shapes: name → tuple, known before any array is taken. take: name → numpy array, once; it is not kept.
    """

    shapes: dict[str, tuple[int, ...]]
    take: Callable[[str], np.ndarray]


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
    """Weights of a .safetensors file, each read when it is taken."""
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        names = file.keys()
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}

    def take(name):
        # Opened anew each time: pages of the mapped file count as memory used for as long as it is open.
        with safe_open(str(path), framework="numpy") as file:
            return file.get_tensor(name)

    return Weights(shapes, take)


def read_pdparams(path):
    """Weights of a .pdparams file, read whole; memory is given back as they are taken."""
    import paddle

    content = paddle.load(str(path), return_numpy=True)
    return in_memory({name: array for name, array in content.items() if isinstance(array, np.ndarray)})


def in_memory(arrays):
    """Weights that remove from a dict what is taken."""
    return Weights({name: array.shape for name, array in arrays.items()}, arrays.pop)


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
