"""A file's token ids: computed once, in parallel, kept on disk, and read from there in training. Imports no paddle.

Neither texts nor ids of a training set are ever in memory as a whole, only the lengths of its rows. Ids are kept under
a hash of all that they depend on: the file's bytes, which of its records are meant, the tokenizer, the lengths, the
code. So a file that changes is encoded anew, and one that moves is not.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from pathlib import Path

import numpy as np

from glm import json_text
from glm.cache import own_cache_directory
from glm.data import templates
from glm.data.examples import Encoded, lengths_of, try_encode, without_bad
from glm.data.records import ReadReport
from glm.data.tokenization import ADDED_TOKENS_FILE, MODEL_FILE, Tokenizer
from glm.data.validation import DataError
from glm.files import json_array, lines, manifest
from glm.files.cached import MANIFEST, cached
from glm.texts import said

# Examples that a process takes at a time; fewer than two such parts are not worth starting processes for.
PART = 1000
# Parts that may be under way for each process: reading is ahead of encoding by so much, and no more.
AHEAD = 2
IDS_FILE, LENGTHS_FILE, REPORT_FILE = "ids.int32", "lengths.npy", "report.json"


class StoredRows:
    """Rows of examples.Encoded in a directory that encode_file() made. Their texts are not kept, only where they stood.

    lengths: int64 [rows, 4], see examples.lengths_of(). report: ReadReport.
    """

    def __init__(self, directory, path):
        """path: where the file is now."""
        with open(Path(directory) / REPORT_FILE, encoding="utf8") as file:
            content = json.load(file)
        self.report = ReadReport(**{**content, "skipped": Counter(content["skipped"])}).moved(str(path))
        numbers = np.load(Path(directory) / LENGTHS_FILE)
        self.lengths, self.lines = numbers[:, :4].astype(np.int64), numbers[:, 4]
        self.starts = np.concatenate([[0], np.cumsum(np.maximum(self.lengths[:, :2], 0).sum(axis=1))])
        self.ids = np.memmap(Path(directory) / IDS_FILE, np.int32, "r")
        self.directory = Path(directory)

    def identity(self):
        """What the rows are known by, as text: a hash of their ids, whatever file they came from."""
        files = manifest.read(self.directory, MANIFEST)["files"]
        return hashlib.sha256(self.lengths[:, :2].tobytes() + files[IDS_FILE]["sha256"].encode()).hexdigest()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, row):
        source, target, full_source, full_target = map(int, self.lengths[row])
        ids = np.array(self.ids[self.starts[row] : self.starts[row + 1]])
        example = templates.Example("", "", "", place=f"{self.report.path}:{self.lines[row]}")
        return Encoded(example, ids[:source], None if target < 0 else ids[source:], full_source, full_target)


def encode_file(selection, tokenizer, src_length, tgt_length, *, cache_dir=None, progress=True):
    """The StoredRows of a selections.Selection, from the cache if they are there.

    tokenizer: tokenization.Tokenizer. cache_dir: see glm.cache. Raises DataError.
    """
    name = fingerprint(selection, tokenizer, src_length, tgt_length)
    folder = own_cache_directory(cache_dir) / "encoded"
    folder.mkdir(mode=0o700, exist_ok=True)

    def make(directory):
        report = ReadReport(str(selection.path))
        outcomes = encoded_stream(selection.examples(report), tokenizer, src_length, tgt_length, progress)
        write(directory, without_bad(outcomes, selection.on_bad_data, report), report)

    return StoredRows(cached(folder / name, make), selection.path)


def encode_texts(selection, tokenizer, src_length, tgt_length, *, progress=True):
    """(list of examples.Encoded with their texts, ReadReport) of a selections.Selection. Raises DataError."""
    report = ReadReport(str(selection.path))
    outcomes = encoded_stream(selection.examples(report), tokenizer, src_length, tgt_length, progress)
    return list(without_bad(outcomes, selection.on_bad_data, report)), report


def fingerprint(selection, tokenizer, src_length, tgt_length):
    """A hash of all that a selection's token ids depend on, as text. Raises DataError."""
    part = selection.part and [sorted(selection.part.numbers), selection.part.others]
    chosen = {**dataclasses.asdict(dataclasses.replace(selection, part=None)), "path": None, "part": part}
    digest = hashlib.sha256(json.dumps([chosen, src_length, tgt_length, lines.limit()], sort_keys=True).encode())
    # All of this room's code, and what it reads arrays with.
    code = [*sorted(Path(__file__).parent.glob("*.py")), Path(json_array.__file__), Path(lines.__file__)]
    for path in (tokenizer.directory / MODEL_FILE, tokenizer.directory / ADDED_TOKENS_FILE, *code, *selection.files):
        digest.update(hash_of_file(path))
    return digest.hexdigest()[:32]


def hash_of_file(path):
    """SHA-256 of a file's bytes; of nothing, if there is no such file: whoever reads it will say so."""
    digest = hashlib.sha256()
    if Path(path).is_file():
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.digest()


def encoded_stream(examples, tokenizer, src_length, tgt_length, progress):
    """examples.Encoded or a DataError for each example of an iterator, in order; with a progress bar, and by all cores
    where that pays. Few examples are held at a time."""
    from tqdm import tqdm

    parts = in_parts(examples)
    first = list(islice(parts, 2))
    few = len(first) < 2
    workers = 1 if few else int(os.environ.get("OMP_NUM_THREADS", "1"))
    settings = tokenizer, src_length, tgt_length
    # A bar for less than a second is noise.
    with tqdm(
        desc=said("encoding"), unit="row", disable=few or not progress or not sys.stderr.isatty(), file=sys.stderr
    ) as bar:
        for outcomes in encoded_parts(chain(first, parts), workers, settings):
            bar.update(len(outcomes))
            yield from outcomes


def in_parts(items):
    """Lists of PART items of an iterable, the last one shorter."""
    items = iter(items)
    while part := list(islice(items, PART)):
        yield part


def encoded_parts(parts, workers, settings):
    """The outcomes of each part, in order; settings: tokenizer, src_length, tgt_length."""
    if workers < 2:
        for part in parts:
            yield [try_encode(example, *settings) for example in part]
        return
    tokenizer, *lengths = settings
    # A fork of a process whose threads compute may hang; a new process has to read the tokenizer anew.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker, (str(tokenizer.directory), *lengths)) as pool:
        under_way = deque()
        for part in chain(parts, [None] * workers * AHEAD):
            if part is not None:
                under_way.append((part, pool.submit(encode_part, part)))
            if under_way and (part is None or len(under_way) > workers * AHEAD):
                examples, future = under_way.popleft()
                yield [
                    DataError(*result[1:]) if result[0] is None else Encoded(example, *result)
                    for example, result in zip(examples, future.result(), strict=True)
                ]


def start_worker(directory, src_length, tgt_length):
    """Set a process up for encode_part()."""
    global SETTINGS
    SETTINGS = Tokenizer(directory), src_length, tgt_length


def encode_part(part):
    """For each example the fields of its examples.Encoded after the first; (None, message, reason) where it is bad."""
    outcomes = [try_encode(example, *SETTINGS) for example in part]
    return [
        (None, str(row), row.reason)
        if isinstance(row, DataError)
        else tuple(getattr(row, spec.name) for spec in dataclasses.fields(Encoded)[1:])
        for row in outcomes
    ]


def write(directory, rows, report):
    """Write rows of examples.Encoded for StoredRows, one after another; report: what is known once all are read."""
    numbers = []
    with open(Path(directory) / IDS_FILE, "wb") as file:
        for part in in_parts(rows):
            for row in part:
                file.write(row.source_ids.tobytes())
                file.write(b"" if row.target_ids is None else row.target_ids.tobytes())
            lines = [int(row.example.place.rpartition(":")[2]) for row in part]
            numbers.append(np.column_stack([lengths_of(part), lines]).astype(np.int32))
    np.save(Path(directory) / LENGTHS_FILE, np.concatenate(numbers))
    with open(Path(directory) / REPORT_FILE, "w", encoding="utf8") as file:
        file.write(json_text.dumps(vars(report)))
