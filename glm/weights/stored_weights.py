"""The weights of a model directory: which files they are in, in which layout, and whether they fit a model."""

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from glm import json_text
from glm.files import descriptions
from glm.model.configuration import GLMConfig
from glm.ops.dtypes import WEIGHT_DTYPES, for_paddle, name_of, rounded, to_numpy
from glm.parallel.sharding import axis_of, from_file, local_part, local_shape, whole_of_parts, whole_shape
from glm.weights.schemas import MODEL_KEYS, Anything, ModelSchema
from glm.weights.weight_files import Weights, read_pdparams, read_safetensors
from glm.weights.weight_sources import READERS, ModelError, find_weights, opened
from glm.weights.weight_writers import SafetensorsWriter

CONFIG_FILE = "config.json"
SHARD = re.compile(r"model_state\.tp(\d{1,9})\.(safetensors|pdparams)")
# Missing shards that a message names.
NAMED = 8
SHARD_READERS = {"safetensors": read_safetensors, "pdparams": read_pdparams}


def read_object(path):
    """The object in a JSON file of at most a few MB. Raises ModelError."""
    return descriptions.read(path, Anything, ModelError)


def read_model_config(directory):
    """The object in a model directory's config.json, which can be a GLM's. Raises ModelError."""
    path = Path(directory) / CONFIG_FILE
    content = descriptions.read(path, ModelSchema, ModelError)
    if content["hidden_size"] % content["num_attention_heads"]:
        heads = content["num_attention_heads"]
        raise ModelError(f"{path}: hidden_size {content['hidden_size']} is no multiple of the {heads} attention heads")
    return content


def config_of(content):
    """The GLMConfig that a config.json says."""
    return GLMConfig(**{name: value for name, value in content.items() if name in MODEL_KEYS})


def write_json(content, path):
    """Write a JSON file."""
    path.write_text(json_text.pretty(content), encoding="utf8")


def read_weights(directory):
    """Weights of a model directory, whole and in paddle's layout: from one file, from parts by an index, or put
    together from tensor-parallel shards as they are taken. Raises ModelError, and so does taking an array."""
    directory = Path(directory)
    if (found := find_weights(directory)) is not None:
        return found
    if shards := shard_files(directory):
        return read_shards(directory, shards)
    raise ModelError(f"{directory}: no weights there ({', '.join(READERS)}, or shards model_state.tp00.safetensors …)")


def shard_files(directory):
    """{rank: path} of a directory's tensor-parallel shards. Raises ModelError if two are of one rank."""
    found = {}
    for path in sorted(Path(directory).glob("model_state.tp*")):
        if match := SHARD.fullmatch(path.name):
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise ModelError(f"{directory}: {other.name} and {path.name} are both there; remove one of them")
    return found


def read_shards(directory, files):
    """Whole Weights of shards, {rank: path}, each array put together when it is taken. Raises ModelError."""
    config = read_model_config(directory)
    degree = max(max(files) + 1, int(config.get("tensor_parallel_degree") or 1))
    if degree != len(files):
        # Not all that are missing: a name or a configuration may speak of any number.
        missing = list(islice((rank for rank in range(degree) if rank not in files), NAMED))
        ranks = ", ".join(f"tp{rank:02d}" for rank in missing)
        more = f" and {degree - len(files) - len(missing)} more" if degree - len(files) > len(missing) else ""
        raise ModelError(f"{directory}: the shards of {ranks}{more} are missing, of {degree}; put them there")
    heads = config["num_attention_heads"]
    if heads % degree:
        raise ModelError(f"{directory}: {degree} shards, but {CONFIG_FILE} has {heads} attention heads; mixed degrees?")
    parts = []
    for rank in range(degree):
        path = files[rank]
        stored = opened(path, SHARD_READERS[SHARD.fullmatch(path.name)[2]])
        parts.append(in_memory_layout(stored, heads // degree))
        check_alike(parts[-1], parts[0], path, files[0].name)
    shapes = {name: whole_shape(name, shape, degree) for name, shape in parts[0].shapes.items()}
    check(expected_shapes(config), shapes, directory)

    def take(name):
        # What is not divided is the same in all shards.
        return whole_of_parts(name, [part.take(name) for part in (parts if axis_of(name) is not None else parts[:1])])

    return Weights(shapes, parts[0].dtypes, take, tuple(parts))


def in_memory_layout(stored, heads):
    """Weights of a shard file in the layout of memory; heads: of a rank."""
    return replace(stored, take=lambda name: from_file(name, stored.take(name), heads))


def check_alike(weights, first, path, first_name):
    """Raise ModelError unless a shard has the names, shapes and dtypes of the first one."""
    for name in sorted(weights.shapes.keys() | first.shapes.keys()):
        here, there = (
            f"{found.dtypes[name]} {list(found.shapes[name])}" if name in found.shapes else "missing"
            for found in (weights, first)
        )
        if here != there:
            raise ModelError(
                f"{path}: {name} is {here}, but {there} in {first_name}; are they of one model and degree?"
            )


def local_weights(weights, rank, degree):
    """A rank's part of whole Weights, in the layout of memory."""
    if degree == 1:
        return weights
    if len(weights.parts) == degree:
        return weights.parts[rank]
    shapes = {name: local_shape(name, shape, degree) for name, shape in weights.shapes.items()}
    return replace(weights, shapes=shapes, take=lambda name: local_part(name, weights.take(name), rank, degree))


def expected_shapes(config):
    """{name: shape} of the weights that a GLM of this configuration (a dict) has."""
    hidden, layers, vocab, positions = (
        config[name] for name in ("hidden_size", "num_layers", "vocab_size", "max_sequence_length")
    )
    shapes = {
        "glm.word_embeddings.weight": (vocab, hidden),
        "glm.transformer.position_embeddings.weight": (positions + 1, hidden),
        "glm.transformer.block_position_embeddings.weight": (positions + 1, hidden),
    }
    linear = {
        "attention.query_key_value": (hidden, 3 * hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (hidden, 4 * hidden),
        "mlp.dense_4h_to_h": (4 * hidden, hidden),
    }
    norms = ["glm.transformer.final_layernorm"]
    for layer in range(layers):
        prefix = f"glm.transformer.layers.{layer}."
        norms += [prefix + "input_layernorm", prefix + "post_attention_layernorm"]
        for name, shape in linear.items():
            shapes.update({f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[1:]})
    return shapes | {f"{name}.{kind}": (hidden,) for name in norms for kind in ("weight", "bias")}


def assign(parameters, weights, place):
    """Copy weights into parameters (by name), one after another, once all names and shapes are known to fit.

    place: what the message calls where they come from. Raises ModelError.
    """
    check({name: tuple(parameter.shape) for name, parameter in parameters.items()}, weights.shapes, place)
    for name, parameter in parameters.items():
        values = rounded(name, weights.take(name), name_of(parameter))
        check_finite(values, name, place)
        parameter.set_value(for_paddle(values))


def check_finite(values, name, place):
    """Raise ModelError if a weight is not of numbers alone."""
    # A sum is several times as fast as looking at each. It may overflow where they are all finite, so look then.
    if not np.isfinite(values.sum(dtype="float32")) and not np.isfinite(values).all():
        raise ModelError(f"{place}: {name} holds NaN or infinity; the checkpoint is of a run that went wrong")


def check(expected, shapes, place):
    """Raise ModelError on the first weight that is missing, unknown or misshapen; both are {name: shape}."""
    missing = sorted(expected.keys() - shapes.keys())
    unknown = sorted(shapes.keys() - expected.keys())
    if missing or unknown:
        kind, names = ("lacks", missing) if missing else ("has an unknown", unknown)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ModelError(f"{place}: the checkpoint {kind} {names[0]}{more}; config.json and weights do not match")
    for name, shape in expected.items():
        found = list(shapes[name])
        if found != list(shape):
            raise ModelError(f"{place}: {name} is {found}, but config.json asks for {list(shape)}")


def prevailing(dtypes, shapes):
    """The dtype, of one for all weights or of {name: dtype}, that most numbers of arrays of these shapes have."""
    if isinstance(dtypes, str):
        return dtypes
    numbers = Counter()
    for name, dtype in dtypes.items():
        numbers[dtype] += math.prod(shapes[name])
    return numbers.most_common(1)[0][0]


def size_of(tensors):
    """Bytes that tensors or arrays (by name) take in a file."""
    return sum(
        int(np.prod(tensor.shape, dtype=np.int64)) * WEIGHT_DTYPES[name_of(tensor)].itemsize
        for tensor in tensors.values()
    )


def host_arrays(tensors):
    """Copies of tensors or arrays (by name) as NumPy arrays."""
    return {name: np.array(to_numpy(tensor)) for name, tensor in tensors.items()}


def write_arrays(tensors, path, dtype=None, layout=None):
    """Write tensors or arrays (by name) as a safetensors file, one after another.

    dtype: of all in the file, or {name: dtype}; default: the dtype of each. layout: name, array → array as it is in the
    file. Raises RangeError.
    """
    dtype = dtype or {name: name_of(tensor) for name, tensor in tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with SafetensorsWriter(path, shapes, dtype) as writer:
        for name, tensor in tensors.items():
            array = to_numpy(tensor)
            writer.write(layout(name, array) if layout else array)
