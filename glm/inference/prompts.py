"""What is to be answered: the records of a file, lines of standard input, or two examples. They are read and encoded
window after window, so that memory does not grow with the file; numpy only."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glm.data.columns import parse_columns
from glm.data.examples import try_encode, without_bad
from glm.data.kinds import JSON, JSON_SUFFIXES, PAIR_SUFFIXES, TEXT, kind_of
from glm.data.lost_text import LostText
from glm.data.preparation import DEFAULT
from glm.data.records import ReadReport
from glm.data.selections import Selection, template_of
from glm.data.templates import Example, templates_of
from glm.data.validation import DataError
from glm.errors import RunError, UserError, note
from glm.files import json_object, lines
from glm.files.guarded import reason_of
from glm.inference.partial_answers import path_of
from glm.texts import said

# As a file's name: standard input.
STDIN = "-"
# A window holds so many prompts, or those whose texts and records have so many characters together, if these are fewer.
# Which prompts are decoded together, and with that the last digits of scores, depend on it; so it is no flag.
WINDOW, CHARACTERS = 4096, 2**23
# What is answered when no file is given: one question to ask, one instruction.
EXAMPLE_RECORDS = (
    {
        "context": "云栖湖位于青岚山脚下，湖面海拔一千二百米，每年四月到六月是观鸟的好时候。",
        "answer": "四月到六月",
    },
    {
        "context": "竹编灯笼要先把竹子剖成细篾，再编成骨架，最后糊上棉纸。一盏灯笼大约要编两天。",
        "answer": "两天",
    },
)


@dataclass(frozen=True)
class Source:
    """Where prompts come from. name: what messages call it; None for the example prompts. examples: called with a
    ReadReport, gives an iterator of Examples from the first one on, as often as it is called."""

    name: str | None
    examples: Callable[[ReadReport], Iterator[Example]]


def example_prompts(preparation=DEFAULT):
    """The two example prompts, as Examples. Raises UserError where a prompt of one's own shows other fields."""
    template = next(iter(templates_of(preparation).values()))
    if missing := set(template.required) - EXAMPLE_RECORDS[0].keys():
        names = ", ".join(sorted(missing))
        raise UserError(f"the example prompts have no {names}, which the model's own prompt shows; give --data_file")
    more = dict.fromkeys(template.optional, "")
    return [
        template.example({**more, **record}, place=f"example {i + 1}", record=json_object.dumps(record))
        for i, record in enumerate(EXAMPLE_RECORDS)
    ]


@contextmanager
def opened(arguments, remembered=DEFAULT):
    """Context with the Source that PromptArguments ask for. remembered: how the model's prompts are made, unless flags
    say otherwise. Raises UserError."""
    preparation = arguments.preparation(remembered)
    lines.set_limit(arguments.max_record_bytes)
    if arguments.data_file is None:
        found = example_prompts(preparation)
        yield Source(None, lambda report: iter(found))
    elif arguments.data_file == STDIN:
        with standard_input() as path:
            yield source_of_file(path, arguments, preparation, "standard input")
    else:
        yield source_of_file(arguments.data_file, arguments, preparation, str(arguments.data_file))


def source_of_file(path, arguments, preparation, name):
    """The Source of a file, called `name`; a note says what it is taken for where its name does not."""
    columns = parse_columns(arguments.columns)
    kind = kind_of(path, [column for _, column in columns])
    template = arguments.template or template_of(path, "qg", columns)
    if kind == TEXT:
        if arguments.template not in (None, "instruction", "text"):
            raise UserError(f"{path}: is plain text, which has no context; leave --template out")
        template = arguments.template or "text"
        what = "record" if preparation.prompt else template.replace("text", "prompt")
        note(f"{name}: read as plain text, one {what} a line")
    elif kind == JSON and Path(path).suffix not in JSON_SUFFIXES:
        note(f"{name}: read as JSON, which it is by its content")
    selection = Selection(
        path,
        template,
        need_target=False,
        on_bad_data=arguments.on_bad_data,
        columns=columns,
        prompt=preparation.prompt,
        normalize=preparation.normalize,
        # Whatever lines are to be written: how prompts are divided into windows must not depend on it.
        keep_records=True,
    )
    return Source(name, selection.examples)


@contextmanager
def standard_input():
    """Context with the path of a file that has what comes from standard input: its lines are JSON or texts."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "stdin.txt"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 2**20)
        try:
            yield path
        except UserError as error:
            # Where the file is for so long is nobody's business.
            raise UserError(str(error).replace(str(path), "standard input")) from None


def refuse_to_replace_data(arguments, part):
    """Raise UserError if answers would be written over the data that they are of; arguments: PromptArguments."""
    if arguments.output_file is None or arguments.data_file in (None, STDIN):
        return
    data = Path(arguments.data_file)
    files = [data, *(data.with_suffix(suffix) for suffix in PAIR_SUFFIXES)]
    for written in (Path(arguments.output_file), path_of(arguments.output_file, part)):
        if written.exists() and any(file.exists() and written.samefile(file) for file in files):
            raise UserError(f"--output_file {arguments.output_file} would replace the data, {data}; give another file")


class Prompts:
    """All prompts of a Source, encoded. They are gone through once when this is made, so that a mistake anywhere in a
    file is told before anything is decoded; then windows() reads them again. One window is kept instead.

    count: how many there are. longest: tokens of the longest source. report: the reader's, of all of them. lost: a
    LostText of all of them. digests: of each window, what answers depend on.
    """

    def __init__(self, source, tokenizer, src_length, on_bad_data="error", progress=False, check=None):
        """tokenizer, src_length: see examples.encode(). check: called with each examples.Encoded, raises DataError for
        what cannot be answered. Raises UserError."""
        self.source, self.tokenizer, self.src_length, self.on_bad_data = source, tokenizer, src_length, on_bad_data
        self.check = check
        self.report, self.lost = ReadReport(str(source.name)), LostText()
        self.count, self.longest, self.digests, self.held = 0, 0, [], None
        self.go_through(progress)

    def go_through(self, progress):
        """Read all, and find out what there is to know of them together."""
        from tqdm import tqdm

        # A bar for less than a second is noise.
        shown = progress and sys.stderr.isatty()
        with tqdm(desc=said("encoding"), unit="prompt", disable=not shown, delay=1, file=sys.stderr) as bar:
            for rows in self.read(self.report):
                self.held = None if self.digests else rows
                self.digests.append(digest_of(rows))
                self.count += len(rows)
                self.longest = max(self.longest, *(len(row.source_ids) for row in rows), 0)
                for row in rows:
                    self.lost.see(row)
                bar.update(len(rows))

    def read(self, report):
        """Yield the windows, lists of examples.Encoded, as they are read. Raises UserError, and RunError where the
        disk fails."""
        # The length of targets is of no account here.
        outcomes = map(self.encoded, self.source.examples(report))
        try:
            yield from in_windows(without_bad(outcomes, self.on_bad_data, report))
        except OSError as error:
            raise RunError(f"{self.source.name} could not be read: {reason_of(error)}") from None

    def encoded(self, example):
        """An Example as examples.Encoded, or the DataError about it."""
        row = try_encode(example, self.tokenizer, self.src_length, 2, need_target=False)
        if self.check is not None and not isinstance(row, DataError):
            try:
                self.check(row)
            except DataError as error:
                return error
        return row

    def windows(self):
        """Yield (number of its first prompt among all, list of examples.Encoded) of each window. Raises UserError where
        a file is not any more what it was."""
        windows = iter(self.read(ReadReport(str(self.source.name))) if self.held is None else [self.held])
        first = 0
        for digest in self.digests:
            rows = next(windows, [])
            if self.held is None and digest_of(rows) != digest:
                raise UserError(
                    f"{self.source.name} has changed since this run began; put it back as it was and go on with "
                    "--resume, or start anew"
                )
            yield first, rows
            first += len(rows)


def in_windows(rows):
    """Lists of the items of an iterator of examples.Encoded, by WINDOW and CHARACTERS."""
    window, characters = [], 0
    for row in rows:
        window.append(row)
        characters += len(row.example.source) + len(row.example.record or "")
        if len(window) >= WINDOW or characters >= CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def digest_of(rows):
    """A text that stands for all of prompts that answers depend on."""
    digest = hashlib.sha256()
    for row in rows:
        source = row.example.source.encode("utf8", "surrogatepass")
        target = str(row.example.target).encode("utf8", "surrogatepass")
        digest.update(b"%d %d %d\n" % (len(row.source_ids), len(source), len(target)))
        digest.update(row.source_ids.tobytes() + source + target)
    return digest.hexdigest()[:32]
