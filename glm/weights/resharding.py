"""Models divided into tensor-parallel shards, put together, divided anew: one array at a time, and without paddle."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from glm.data import tokenization
from glm.errors import UserError
from glm.files import locks, manifest, places
from glm.files.atomic import check_is_free, new_directory
from glm.files.guarded import product
from glm.parallel.sharding import check_degree, local_part, local_shape, to_file
from glm.weights.directory_kinds import check_is_model
from glm.weights.stored_weights import (
    CONFIG_FILE,
    SHARD_READERS,
    check,
    expected_shapes,
    prevailing,
    read_model_config,
    read_weights,
    write_json,
)
from glm.weights.weight_sources import PDPARAMS, SAFETENSORS, ModelError
from glm.weights.weight_writers import PdparamsWriter, SafetensorsWriter


def reshard(source, target, degree, kind="safetensors"):
    """Write the model in directory `source`, whole or in shards, into the new directory `target`, whole (degree 1) or
    in so many tensor-parallel shards.

    kind: "safetensors" or "pdparams". One array at a time is in memory, paddle is not needed, and `target` appears when
    all of it has been written and read back. Raises UserError before anything is written, or ModelError.
    """
    places.check_directory(target, "the target")
    advice = "nothing is left of it: make room, or write elsewhere"
    with product(target, advice), locks.held_for(target), ThreadPoolExecutor(1) as beside:
        check_is_free(target, "the target")
        check_is_model(source)
        verified = beside.submit(manifest.verify, source)
        try:
            write_resharded(source, target, degree, kind, verified)
        except UserError:
            # Where the source is damaged, that is the reason.
            verified.result()
            raise


def write_resharded(source, target, degree, kind, verified):
    """reshard(); verified: a Future of the source's manifest, without which `target` does not appear."""
    config = read_model_config(source)
    weights = read_weights(source)
    check(expected_shapes(config), weights.shapes, source)
    check_degree(degree, config["num_attention_heads"], config["hidden_size"], config["vocab_size"])
    heads = config["num_attention_heads"] // degree
    shapes = {name: local_shape(name, shape, degree) for name, shape in weights.shapes.items()}
    with new_directory(target, facts={}) as workshop:
        whole = {"safetensors": SAFETENSORS, "pdparams": PDPARAMS}[kind]
        names = [whole] if degree == 1 else [f"model_state.tp{rank:02d}.{kind}" for rank in range(degree)]
        writer = {"safetensors": SafetensorsWriter, "pdparams": PdparamsWriter}[kind]
        with ExitStack() as stack:
            writers = [stack.enter_context(writer(workshop / name, shapes, weights.dtypes)) for name in names]
            for name in shapes:
                for one, pieces in zip(writers, parts_of(name, weights, degree, heads), strict=True):
                    one.write(*pieces)
            verified.result()
            # The disk takes its time; what was written is read back meanwhile.
            for one in writers:
                one.finish()
            check_files([workshop / name for name in names], kind, weights, heads)
        write_json(
            {**config, "tensor_parallel_degree": degree, "dtype": prevailing(weights.dtypes, weights.shapes)},
            workshop / CONFIG_FILE,
        )
        tokenization.copy(source, workshop)


def parts_of(name, weights, degree, heads):
    """For each of `degree` files what it has of a weight, in the layout of the file: pieces that lie one after another.

    heads: of a rank.
    """
    if degree == 1:
        return [weights.pieces(name)]
    array = weights.take(name)
    return [[to_file(name, local_part(name, array, rank, degree), heads)] for rank in range(degree)]


def check_files(paths, kind, weights, heads):
    """Raise ModelError unless files that were written hold, bit for bit, the parts of Weights that they should."""
    readers = [SHARD_READERS[kind](path) for path in paths]
    for name in weights.shapes:
        for path, reader, pieces in zip(paths, readers, parts_of(name, weights, len(paths), heads), strict=True):
            if reader.dtypes[name] != weights.dtypes[name] or not is_made_of(reader.take(name), pieces):
                raise ModelError(f"{path.name}: what was read back is not what was written; is the disk in order?")


def is_made_of(array, pieces):
    """Whether an array is, bit for bit, pieces of its dtype that lie one after another along its first axis."""
    bits, start = f"u{array.itemsize}", 0
    for piece in pieces:
        found, start = array[start : start + len(piece)], start + len(piece)
        if not np.array_equal(found.view(bits), np.ascontiguousarray(piece, array.dtype).view(bits)):
            return False
    return start == len(array)
