"""Which files of a directory its weights are in, as people have them, and opening them with paddle's names and layout.

model.safetensors | model_state.pdparams | pytorch_model.bin    one file
the same + .index.json, and the files that it names             a model in parts, as save_pretrained() and Hugging
                                                                Face write large ones
"""

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from glm.errors import UserError
from glm.files import descriptions
from glm.ops.dtypes import WEIGHT_DTYPES
from glm.weights.pytorch_files import read_pytorch
from glm.weights.weight_files import Weights, read_pdparams, read_safetensors

SAFETENSORS, PDPARAMS, PYTORCH = "model.safetensors", "model_state.pdparams", "pytorch_model.bin"
READERS = {SAFETENSORS: read_safetensors, PDPARAMS: read_pdparams, PYTORCH: read_pytorch}
INDEX = ".index.json"
# What Git LFS puts in the place of a large file that has not been fetched.
POINTER = b"version https://git-lfs.github.com/spec/"
TRANSPOSED = re.compile(r"\.(query_key_value|attention\.dense|dense_h_to_4h|dense_4h_to_h)\.weight$")
# All weights' names begin so, but where the part below the head was saved alone.
PREFIX, UNPREFIXED = "glm.", ("word_embeddings.", "transformer.")
# Tensors that are none of the model's weights: PyTorch keeps what it computes of a configuration among them.
SURPLUS = re.compile(r"(^|\.)(position_ids|masked_bias|attention_mask|inv_freq|rotary_emb\..*)$")


class ModelError(UserError):
    """A model cannot be found or read; the message says what and where, in one line."""


class IndexSchema(BaseModel):
    """An .index.json: which file beside it has which weight."""

    model_config = ConfigDict(extra="ignore")

    weight_map: dict[
        Annotated[str, Field(max_length=4096)],
        Annotated[str, Field(max_length=255, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")],
    ]


def names_of_weights(directory, readers=READERS):
    """Names of a directory's files, or indices of parts, that have weights in the formats of `readers`."""
    return [name for kind in readers for name in (kind, kind + INDEX) if (Path(directory) / name).is_file()]


def find_weights(directory, readers=READERS):
    """Weights of a directory that are in one file or in parts by an index; None if there are none. Raises ModelError,
    also where there are several that could be meant.

    readers: {name of a file: its reader in weight_files or pytorch_files}.
    """
    directory, names = Path(directory), names_of_weights(directory, readers)
    if len(names) > 1:
        raise ModelError(
            f"{directory}: {names[0]} and {names[1]} are both there, and may be of different models; move one away"
        )
    if not names:
        return None
    if names[0].endswith(INDEX):
        return read_indexed(directory, names[0], readers[names[0].removesuffix(INDEX)])
    return read_weights_file(directory / names[0], readers[names[0]])


def read_indexed(directory, name, read):
    """Weights of the files that an index names, by their reader. Raises ModelError."""
    path = directory / name
    places = descriptions.read(path, IndexSchema, ModelError)["weight_map"]
    parts = {}
    for file in sorted(set(places.values())):
        if not (directory / file).is_file():
            raise ModelError(f"{directory / file}: no such file, but {name} names it; fetch all parts of the model")
        parts[file] = opened(directory / file, read)
    for weight, file in places.items():
        if weight not in parts[file].shapes:
            raise ModelError(f"{directory / file}: has no {weight}, but {name} says so; are all parts of one model?")
    return as_paddle_has_it(
        Weights(
            {weight: parts[file].shapes[weight] for weight, file in places.items()},
            {weight: parts[file].dtypes[weight] for weight, file in places.items()},
            lambda weight: parts[places[weight]].take(weight),
        )
    )


def read_weights_file(path, read=read_safetensors):
    """Weights of a file, by one of the readers of weight_files, with paddle's names and layout. Raises ModelError, and
    so does taking an array."""
    return as_paddle_has_it(opened(path, read))


def opened(path, read):
    """Weights of a file as they are there, by one of the readers of weight_files. Raises ModelError, for a dtype that
    weights do not have by its name, and so does taking an array."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ModelError(f"{path}: is not there yet, only a pointer of Git LFS; git lfs pull fetches it")
    with reading(path):
        weights = read(path)
    for name, dtype in weights.dtypes.items():
        if dtype not in WEIGHT_DTYPES and not SURPLUS.search(name):
            known = ", ".join(WEIGHT_DTYPES)
            raise ModelError(f"{path}: {name} is of type {dtype}; weights can be {known}: convert it to one of them")
    return replace(weights, take=reading(path)(weights.take))


@contextmanager
def reading(path):
    """Context, or decorator, in which any failure is a ModelError about the file."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: cannot be read ({reason}); is the file whole?") from None


def as_paddle_has_it(weights):
    """Weights under paddle's names, without what is surplus, and with linear layers as [in, out]; which layout they
    have is told by the shape of query_key_value."""
    names = {name: name for name in weights.shapes if not SURPLUS.search(name)}
    if names and all(name.startswith(UNPREFIXED) for name in names):
        names = {PREFIX + name: name for name in names}
    fused = next((weights.shapes[old] for name, old in names.items() if name.endswith("query_key_value.weight")), None)
    turned = {name for name in names if TRANSPOSED.search(name)} if fused and fused[0] >= fused[1] else set()

    def take(name):
        array = weights.take(names[name])
        return array.T if name in turned else array

    return Weights(
        {name: weights.shapes[old][:: -1 if name in turned else 1] for name, old in names.items()},
        {name: weights.dtypes[old] for name, old in names.items()},
        take,
    )
