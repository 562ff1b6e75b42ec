"""A data set's token ids: computed in parallel, once, and kept for the next run. Imports no paddle.

They are kept under a hash of everything that they depend on: the examples' texts, the tokenizer's files, the lengths,
and the code that encodes. So a file that changes is encoded anew, and one that moves is not.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import data
import truncation
from builtin_model import cache_directory
from tokenization import ADDED_TOKENS_FILE, MODEL_FILE, Tokenizer
from validation import DataError

# Examples that a process takes at a time; fewer than two such parts are not worth starting processes for.
PART = 1000


def encode_dataset(
    examples, tokenizer, src_length, tgt_length, on_bad_data="error", report=None, *, cache_dir=None, progress=True
):
    """What data.encode_all() gives for a list of examples and a tokenization.Tokenizer.

    cache_dir: where token ids are kept, see builtin_model.cache_directory().
    """
    path = cache_directory(cache_dir) / "encoded" / f"{fingerprint(examples, tokenizer, src_length, tgt_length)}.npz"
    if path.is_file():
        return read(path, examples)
    outcomes = encode_in_parts(examples, tokenizer, src_length, tgt_length, progress)
    rows = data.without_bad(outcomes, on_bad_data, report)
    if len(rows) == len(examples):
        write(path, rows)
    return rows


def fingerprint(examples, tokenizer, src_length, tgt_length):
    """A hash of all that token ids depend on, as text."""
    digest = hashlib.sha256(f"{src_length} {tgt_length}".encode())
    for file in (tokenizer.directory / MODEL_FILE, tokenizer.directory / ADDED_TOKENS_FILE, data, truncation):
        path = Path(getattr(file, "__file__", file))
        digest.update(path.read_bytes() if path.is_file() else b"")
    for row in examples:
        texts = [row.before, row.context, row.after, row.keep, row.side, row.target]
        digest.update(json.dumps(texts).encode())
    return digest.hexdigest()[:32]


def encode_in_parts(examples, tokenizer, src_length, tgt_length, progress):
    """data.Encoded or a DataError for each example, in order; with a progress bar, by all cores where that pays."""
    from tqdm import tqdm

    parts = [examples[start : start + PART] for start in range(0, len(examples), PART)]
    workers = min(len(parts), int(os.environ.get("OMP_NUM_THREADS", "1")))
    outcomes = []
    hidden = not progress or len(parts) < 2  # a bar for less than a second is noise
    with tqdm(total=len(examples), desc="encoding", unit="row", disable=hidden, file=sys.stderr) as bar:
        for part in encoded_parts(parts, workers, (tokenizer, src_length, tgt_length)):
            outcomes += part
            bar.update(len(part))
    return outcomes


def encoded_parts(parts, workers, settings):
    """The outcomes of each part, in order; settings: tokenizer, src_length, tgt_length."""
    if workers < 2:
        for part in parts:
            yield [data.try_encode(example, *settings) for example in part]
        return
    tokenizer, *lengths = settings
    # A fork of a process whose threads compute may hang; a new process has to read the tokenizer anew.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker, (str(tokenizer.directory), *lengths)) as pool:
        for part, results in zip(parts, pool.map(encode_part, parts), strict=True):
            yield [
                DataError(*result[1:]) if result[0] is None else data.Encoded(example, *result)
                for example, result in zip(part, results, strict=True)
            ]


def start_worker(directory, src_length, tgt_length):
    """Set a process up for encode_part()."""
    global SETTINGS
    SETTINGS = Tokenizer(directory), src_length, tgt_length


def encode_part(part):
    """For each example the fields of its data.Encoded after the first; (None, message, reason) where it is bad."""
    outcomes = [data.try_encode(example, *SETTINGS) for example in part]
    return [
        (None, str(row), row.reason)
        if isinstance(row, DataError)
        else (row.source_ids, row.target_ids, row.full_source_length, row.full_target_length)
        for row in outcomes
    ]


def write(path, rows):
    """Keep rows of data.Encoded: their ids one after another, and their lengths (-1 where there is no target)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    empty = np.zeros(0, np.int32)
    targets = [empty if row.target_ids is None else row.target_ids for row in rows]
    lengths = [
        (len(row.source_ids), -1 if row.target_ids is None else len(row.target_ids))
        + (row.full_source_length, row.full_target_length)
        for row in rows
    ]
    ids = [array for row, target in zip(rows, targets, strict=True) for array in (row.source_ids, target)]
    # Whoever reads sees the whole file or none.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        np.savez(file, ids=np.concatenate([empty, *ids]), lengths=np.array(lengths, np.int64).reshape([-1, 4]))
    os.replace(file.name, path)


def read(path, examples):
    """The rows that write() kept, for the same examples."""
    with np.load(path) as content:
        ids, lengths = content["ids"], content["lengths"]
    sizes = np.maximum(lengths[:, :2], 0).ravel()
    pieces = np.split(ids, np.cumsum(sizes)[:-1]) if len(sizes) else []
    return [
        data.Encoded(example, pieces[2 * i], None if target < 0 else pieces[2 * i + 1], int(source), int(full_target))
        for i, (example, (_, target, source, full_target)) in enumerate(zip(examples, lengths, strict=True))
    ]
