"""PyTorch's files of weights → arrays by name, one at a time, without PyTorch.

torch.save writes, since 1.6, a zip file: data.pkl says of each tensor where it lies in which of the members data/0,
data/1, …. Until then it wrote pickles one after another: a number that marks the format, its version, the machine, the
description of the tensors, the order of the storages; then the storages, each as the number of its elements (8 bytes)
and their bytes. Not read by paddlenlp's load_torch, which takes a tensor with gaps for one without, and runs what a
pickle asks for.
"""

import io
import math
from typing import NamedTuple
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from glm.ops.dtypes import WEIGHT_DTYPES
from glm.weights.pickled_arrays import ArrayUnpickler, Refused
from glm.weights.weight_files import Weights

# PyTorch's names of what tensors are made of; only WEIGHT_DTYPES are read, the others are known to be refused by name.
PYTORCH_DTYPES = {"Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Double": "float64", "Long": "int64"}
PYTORCH_DTYPES |= {"Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"}

# The description of a PyTorch file's tensors: its member, and how large one is read; a model of 1,000 layers has 2 MB.
INDEX, LARGEST_INDEX = "data.pkl", 2**24
ZIP_START = b"PK"
# What a file of pickles begins with.
MAGIC_NUMBER, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
COUNT_BYTES = 8
ITEM_BYTES = {name: np.dtype(WEIGHT_DTYPES.get(name, name)).itemsize for name in PYTORCH_DTYPES.values()}


def read_pytorch(path):
    """Weights of a pytorch_model.bin, each read when it is taken."""
    with open(path, "rb") as file:
        is_zip = file.read(len(ZIP_START)) == ZIP_START
    tensors, stored = (read_zip if is_zip else read_pickles)(path)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, StoredTensor) for tensor in tensors.values()):
        raise ValueError("holds no dict of tensors")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    dtypes = {name: tensor.storage.dtype for name, tensor in tensors.items()}
    return Weights(shapes, dtypes, lambda name: tensors[name].of(stored(tensors[name].storage), name))


def read_zip(path):
    """(what a zip file describes, Storage → its numbers)."""
    with ZipFile(path) as file:
        index = index_of(file)
        content = PyTorchUnpickler(io.BytesIO(file.read(index))).load()

    def stored(storage):
        with ZipFile(path) as file:
            numbers = file.read(f"{index.removesuffix(INDEX)}data/{storage.key}")
        return np.frombuffer(numbers, WEIGHT_DTYPES[storage.dtype])

    return content, stored


def index_of(file):
    """Name of the member of a ZipFile that describes its tensors. Raises ValueError for what torch.save does not write:
    compressed members, which can be of any size, and a description of more than LARGEST_INDEX bytes."""
    index = next((info for info in file.infolist() if info.filename.endswith(INDEX)), None)
    if index is None:
        raise ValueError(f"holds no {INDEX}")
    if packed := [info.filename for info in file.infolist() if info.compress_type != ZIP_STORED]:
        raise ValueError(f"{packed[0]} is compressed, as torch.save writes nothing")
    if index.file_size > LARGEST_INDEX:
        raise ValueError(f"{index.filename} has {index.file_size} bytes; at most {LARGEST_INDEX} are read")
    return index.filename


def read_pickles(path):
    """(what a file of pickles describes, Storage → its numbers, a view of the mapped file)."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = io.BytesIO(file.read(LARGEST_INDEX))
        try:
            content, storages, order = described(head)
        except EOFError:
            reason = "it ends too early" if size <= LARGEST_INDEX else f"more than {LARGEST_INDEX} bytes of description"
            raise ValueError(reason) from None
        places = storage_places(file, head.tell(), size, storages, order)

    def stored(storage):
        dtype = WEIGHT_DTYPES[storage.dtype]
        return np.memmap(path, dtype, "r", places[storage.key], storage.count) if storage.count else np.empty(0, dtype)

    return content, stored


def described(head):
    """(tensors, {key: Storage}, keys in the order of the file) of the pickles that a file begins with."""

    def following():
        unpickler = PyTorchUnpickler(head, start=head.tell())
        return unpickler.load(), unpickler.storages

    try:
        known = following()[0] == MAGIC_NUMBER
    except (Refused, KeyError, IndexError):
        known = False
    if not known:
        raise ValueError("it is neither a zip file nor pickles of torch.save")
    if (version := following()[0]) != PROTOCOL:
        raise ValueError(f"it is of version {version!r:.40}, and {PROTOCOL} is known")
    machine = following()[0]
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("its numbers are not those of a little-endian machine")
    content, storages = following()
    return content, storages, following()[0]


def storage_places(file, start, size, storages, order):
    """{key of a Storage: where its numbers begin} in a file of this size, in which they follow each other from `start`
    on. Raises ValueError unless they are all there."""
    listed = isinstance(order, list) and all(isinstance(key, str) for key in order)
    if not listed or len(order) != len(storages) or set(order) != storages.keys():
        raise ValueError("the storages of its tensors are not those that it lists")
    places = {}
    for key in order:
        file.seek(start)
        count, places[key] = int.from_bytes(file.read(COUNT_BYTES), "little"), start + COUNT_BYTES
        start = places[key] + count * ITEM_BYTES[storages[key].dtype]
        if count != storages[key].count or start > size:
            raise ValueError(f"storage {key} is not there whole")
    return places


class StoredTensor(NamedTuple):
    """A tensor of a PyTorch file: the Storage that it lies in, and where there, in elements."""

    storage: "Storage"
    offset: int
    shape: tuple
    stride: tuple

    @classmethod
    def described(cls, storage, offset, shape, stride, *_):
        """A tensor as torch.save describes it. Raises Refused for a description of none."""
        numbers = [offset, *shape, *stride] if isinstance(shape, tuple) and isinstance(stride, tuple) else [-1]
        if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise Refused("a tensor that lies nowhere")
        if len(shape) != len(stride):
            raise Refused(f"a tensor of {len(shape)} sizes and {len(stride)} strides")
        return cls(storage, offset, shape, stride)

    def of(self, stored, name):
        """The array, a view of the numbers in its storage. Raises ValueError if it reaches beyond them,
        or has more of them than there are."""
        stored = stored[self.offset :]
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if last >= stored.size or math.prod(self.shape) > stored.size:
            raise ValueError(f"{name} reaches beyond what is stored of it")
        strides = [step * stored.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(stored, self.shape, strides, writeable=False)


class Storage(NamedTuple):
    """Numbers of a PyTorch file: their dtype, the key that they are found by, and how many there are."""

    dtype: str
    key: str
    count: int


class PyTorchUnpickler(ArrayUnpickler):
    """Reads the tensors that a pickle describes as StoredTensor.

    storages: {key: Storage} of what they refer to.
    """

    CALLS = {
        ("collections", "OrderedDict"): lambda: {},
        ("torch._utils", "_rebuild_tensor"): StoredTensor.described,
        ("torch._utils", "_rebuild_tensor_v2"): StoredTensor.described,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        **{("torch", f"{storage}Storage"): dtype for storage, dtype in PYTORCH_DTYPES.items()},
    }

    def __init__(self, file, start=0):
        super().__init__(file, start)
        self.storages = {}

    def persistent_load(self, pid):
        """The Storage that a tensor refers to: by its type, key, device, number of elements, and until PyTorch 0.4 what
        part of another one it is."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[1] not in PYTORCH_DTYPES.values():
            raise Refused("a reference to elsewhere is nothing that weights are made of")
        if pid[5:] not in ((), (None,)):
            raise Refused("a storage that is part of another one is nothing that weights are made of")
        found = Storage(pid[1], str(pid[2]), pid[4])
        if type(found.count) is not int or self.storages.setdefault(found.key, found) != found:
            raise Refused(f"a storage {found.key:.40} of two kinds")
        return found
