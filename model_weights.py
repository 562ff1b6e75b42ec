"""The weights of a model directory: which files they are in, in which layout, and whether they fit a model."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from errors import UserError
from sharding import axis_of, from_file, local_part, local_shape, whole_of_parts, whole_shape
from weight_files import Weights, read_pdparams, read_pytorch, read_safetensors
from weight_writers import SafetensorsWriter

CONFIG_FILE = "config.json"
SAFETENSORS, PDPARAMS, PYTORCH = "model.safetensors", "model_state.pdparams", "pytorch_model.bin"
READERS = {SAFETENSORS: read_safetensors, PDPARAMS: read_pdparams, PYTORCH: read_pytorch}
SHARD = re.compile(r"model_state\.tp(\d+)\.(safetensors|pdparams)")
SHARD_READERS = {"safetensors": read_safetensors, "pdparams": read_pdparams}
TRANSPOSED = re.compile(r"\.(query_key_value|attention\.dense|dense_h_to_4h|dense_4h_to_h)\.weight$")


# Of a config.json: the sizes of a model, and how large they may be; and its other numbers.
SIZES = {"num_layers": 10_000, "hidden_size": 2**20, "num_attention_heads": 2**20, "vocab_size": 2**31}
SIZES |= {"max_sequence_length": 2**31}
NUMBERS = ("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob", "initializer_range")
NUMBERS += ("layernorm_epsilon", "attention_scale")


class ModelError(UserError):
    """A model cannot be found or read; the message says what and where, in one line."""


def read_object(path):
    """The object in a JSON file. Raises ModelError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: must hold one object")
    return content


def write_json(content, path):
    """Write a JSON file."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf8")


def check_config(content, place):
    """Raise ModelError unless what a config.json (a dict, read from `place`) says of a GLM's sizes can be true."""
    for name, largest in SIZES.items():
        value = content.get(name, 1)
        if type(value) is not int or not 1 <= value <= largest:
            raise ModelError(f"{place}: {name} is {json.dumps(value)}; it must be a whole number from 1 to {largest}")
    for name in NUMBERS:
        value = content.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            raise ModelError(f"{place}: {name} is {json.dumps(value)}; it must be a number of at least 0")
    heads, hidden = content.get("num_attention_heads", 1), content.get("hidden_size")
    if hidden is not None and hidden % heads:
        raise ModelError(f"{place}: hidden_size {hidden} is no multiple of the {heads} attention heads")


def read_weights(directory):
    """Weights of a model directory, whole and in paddle's layout: from one file, or put together from tensor-parallel
    shards as they are taken. Raises ModelError, and so does taking an array."""
    directory = Path(directory)
    for name, read in READERS.items():
        if (directory / name).is_file():
            return read_weights_file(directory / name, read)
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
    config = read_object(Path(directory) / CONFIG_FILE)
    degree = max(max(files) + 1, int(config.get("tensor_parallel_degree") or 1))
    missing = sorted(set(range(degree)) - files.keys())
    if missing:
        ranks = ", ".join(f"tp{rank:02d}" for rank in missing)
        raise ModelError(f"{directory}: the shards of {ranks} are missing, of {degree}; put them there")
    heads = config.get("num_attention_heads", 0)
    if heads < 1 or heads % degree:
        raise ModelError(f"{directory}: {degree} shards, but {CONFIG_FILE} has {heads} attention heads; mixed degrees?")
    parts = []
    for rank in range(degree):
        path = files[rank]
        with reading(path):
            stored = SHARD_READERS[SHARD.fullmatch(path.name)[2]](path)
        parts.append(in_memory_layout(stored, heads // degree, path))
        check_alike(parts[-1].shapes, parts[0].shapes, path, files[0].name)
    shapes = {name: whole_shape(name, shape, degree) for name, shape in parts[0].shapes.items()}
    check(expected_shapes(config, Path(directory) / CONFIG_FILE), shapes, directory)

    def take(name):
        # What is not divided is the same in all shards.
        return whole_of_parts(name, [part.take(name) for part in (parts if axis_of(name) is not None else parts[:1])])

    return Weights(shapes, take, tuple(parts))


def in_memory_layout(stored, heads, path):
    """Weights of a shard file in the layout of memory; heads: of a rank."""

    @reading(path)
    def take(name):
        return from_file(name, stored.take(name), heads)

    return Weights(stored.shapes, take)


def check_alike(shapes, first, path, first_name):
    """Raise ModelError unless a shard has the names and shapes of the first one."""
    for name in sorted(shapes.keys() | first.keys()):
        here, there = (list(found[name]) if name in found else "missing" for found in (shapes, first))
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
    return Weights(shapes, lambda name: local_part(name, weights.take(name), rank, degree))


def expected_shapes(config, place):
    """{name: shape} of the weights that a GLM of this configuration (a dict) has. Raises ModelError."""
    try:
        hidden, layers, vocab, positions = (
            int(config[name]) for name in ("hidden_size", "num_layers", "vocab_size", "max_sequence_length")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{place}: lacks a whole number for {error}") from None
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


def read_weights_file(path, read=read_safetensors):
    """Weights of a file, by one of the readers of weight_files, in paddle's layout. Raises ModelError, and so does
    taking an array."""
    with reading(path):
        weights = to_paddle_layout(read(path))
    return replace(weights, take=reading(path)(weights.take))


@contextmanager
def reading(path):
    """Context, or decorator, in which any failure is a ModelError about the file."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: cannot be read ({reason}); is the file whole?") from None


def to_paddle_layout(weights):
    """Weights with linear layers as [in, out]; which layout they have is told by the shape of query_key_value."""
    fused = next((shape for name, shape in weights.shapes.items() if name.endswith("query_key_value.weight")), None)
    if fused is None or fused[0] < fused[1]:
        return weights
    shapes = {name: shape[::-1] if TRANSPOSED.search(name) else shape for name, shape in weights.shapes.items()}

    def take(name):
        return weights.take(name).T if TRANSPOSED.search(name) else weights.take(name)

    return Weights(shapes, take)


def assign(parameters, weights, place):
    """Copy weights into parameters (by name), one after another, once all names and shapes are known to fit.

    place: what the message calls where they come from. Raises ModelError.
    """
    check({name: tuple(parameter.shape) for name, parameter in parameters.items()}, weights.shapes, place)
    for name, parameter in parameters.items():
        array = weights.take(name)
        if array.dtype.kind != "f":
            # bfloat16 is uint16 to numpy: taken as numbers, it would make a model of nonsense.
            raise ModelError(f"{place}: {name} is neither float16 nor float32; convert the checkpoint first")
        parameter.set_value(np.ascontiguousarray(array, dtype=dtype_name(parameter)))


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


def dtype_name(tensor):
    """Name of a tensor's dtype, as numpy has it."""
    return str(tensor.dtype).split(".")[-1]


def as_array(tensor, dtype):
    """A tensor as a numpy array of a dtype."""
    # bfloat16, which numpy does not have, comes as the bits in uint16.
    return (tensor.astype("float32") if dtype_name(tensor) == "bfloat16" else tensor).numpy().astype(dtype, copy=False)


def file_dtype(tensor):
    """dtype in a file of a tensor or array: its own, where a file can have it, else float32."""
    name = dtype_name(tensor)
    return name if name in SafetensorsWriter.CODES else "float32"


def size_of(tensors):
    """Bytes that tensors or arrays (by name) take in a file."""
    return sum(
        int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(file_dtype(tensor)).itemsize
        for tensor in tensors.values()
    )


def host_arrays(tensors):
    """Copies of tensors (by name) as NumPy arrays of the dtypes that files have."""
    return {name: np.array(as_array(tensor, file_dtype(tensor))) for name, tensor in tensors.items()}


def write_arrays(tensors, path, dtype=None, layout=None):
    """Write tensors or arrays (by name) as a safetensors file, one after another.

    dtype: of all in the file; default: file_dtype() of each. layout: name, array → array as it is in the file.
    """
    dtypes = {name: dtype or file_dtype(tensor) for name, tensor in tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with SafetensorsWriter(path, shapes, dtypes) as writer:
        for name, tensor in tensors.items():
            array = tensor if isinstance(tensor, np.ndarray) else as_array(tensor, dtypes[name])
            writer.write(layout(name, array) if layout else array)
