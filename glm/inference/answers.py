"""From prompts to texts, whatever decodes them: scheduling, the example prompts, the output file. numpy only."""

import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from glm import json_text
from glm.data import examples, lost_text
from glm.data.columns import parse_columns
from glm.data.kinds import JSON, JSON_SUFFIXES, PAIR_SUFFIXES, TEXT, kind_of
from glm.data.preparation import DEFAULT
from glm.data.selections import load_examples, template_of
from glm.data.templates import templates_of
from glm.decoding.generation_config import NotFiniteError, check_positions
from glm.errors import Interrupted, RunError, UserError, note, printable_json, say
from glm.files import json_object, lines, locks, places
from glm.files.guarded import product
from glm.inference.answer_lines import Answer, RecordLines, prompt_line, write_lines
from glm.inference.partial_answers import PartialAnswers

# As a file's name: standard input.
STDIN = "-"
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


def answer_prompts(arguments, tokenizer, config, settings, open_decoder, positions=None, writes=True):
    """Answer all prompts that are asked for, and write what comes of it.

    arguments: PromptArguments. config: GenerationConfig. settings: what the answers depend on besides prompts.
    open_decoder(), called once all prompts are read and encoded, gives the run_batch of answer_all(). positions: rows
    of the model's position tables, where known by now. writes: whether this process does; of ranks, the first one.
    """
    if arguments.output_file is not None and writes:
        places.check_file(arguments.output_file, "--output_file")
    refuse_to_replace_data(arguments)
    found, report = load_prompts(arguments, tokenizer.preparation)
    encoded = examples.encode_all(
        found, tokenizer, arguments.src_length, config.max_new_tokens, arguments.on_bad_data, report, need_target=False
    )
    if positions is not None:
        check_positions(positions, max((len(row.source_ids) for row in encoded), default=0), config.max_new_tokens)
    with output_lock(arguments.output_file if writes else None):
        answer_encoded(arguments, encoded, tokenizer, config, settings, open_decoder, report, writes)


def refuse_to_replace_data(arguments):
    """Raise UserError if answers would be written over the data that they are of; arguments: PromptArguments."""
    if arguments.output_file is None or arguments.data_file in (None, STDIN):
        return
    data = Path(arguments.data_file)
    files = [data, *(data.with_suffix(suffix) for suffix in PAIR_SUFFIXES)]
    for written in (Path(arguments.output_file), PartialAnswers.path_of(arguments.output_file)):
        if written.exists() and any(file.exists() and written.samefile(file) for file in files):
            raise UserError(f"--output_file {arguments.output_file} would replace the data, {data}; give another file")


@contextmanager
def output_lock(path):
    """Context in which no other process writes answers into a file; None is the screen. Raises LockedError."""
    if path is None or (Path(path).exists() and not Path(path).is_file()):
        yield
        return
    with locks.held_for(path):
        yield


def answer_encoded(arguments, encoded, tokenizer, config, settings, open_decoder, report, writes):
    """answer_prompts(), once prompts are encoded and the output is this process's alone."""
    partial = kept_answers(arguments, encoded, settings, writes)
    run_batch = open_decoder()
    with interruptible(partial, len(encoded)):
        answers = answer_all(
            encoded,
            run_batch,
            tokenizer,
            batch_size=arguments.batch_size,
            src_length=arguments.src_length,
            new_tokens=config.new_tokens_a_prompt,
            texts=config.num_return_sequences,
            progress=writes,
            partial=partial,
        )
    if writes:
        report_answers(answers, arguments, report, partial)
        if lost := lost_text.told(encoded, tokenizer, arguments.src_length):
            note(lost)


def load_prompts(arguments, remembered=DEFAULT):
    """Examples to answer and the reader's report (None for the example prompts); arguments: PromptArguments.
    remembered: how the model's prompts are made, unless flags say otherwise."""
    preparation = arguments.preparation(remembered)
    lines.set_limit(arguments.max_record_bytes)
    if arguments.data_file is None:
        return example_prompts(preparation), None
    if arguments.data_file == STDIN:
        with standard_input() as path:
            return load_file(path, arguments, preparation)
    return load_file(arguments.data_file, arguments, preparation)


def load_file(path, arguments, preparation=DEFAULT):
    """Examples of a file and the reader's report."""
    columns = parse_columns(arguments.columns)
    kind = kind_of(path, [column for _, column in columns])
    template = arguments.template or template_of(path, "qg", columns)
    name = "standard input" if arguments.data_file == STDIN else path
    if kind == TEXT:
        if arguments.template == "qg":
            raise UserError(f"{path}: is plain text, which has no context and answer; leave --template out")
        template = arguments.template or "text"
        what = "record" if preparation.prompt else template.replace("text", "prompt")
        note(f"{name}: read as plain text, one {what} a line")
    elif kind == JSON and Path(path).suffix not in JSON_SUFFIXES:
        note(f"{name}: read as JSON, which it is by its content")
    return load_examples(
        path,
        template,
        need_target=False,
        on_bad_data=arguments.on_bad_data,
        columns=columns,
        prompt=preparation.prompt,
        normalize=preparation.normalize,
        keep_records=not arguments.only_predictions,
    )


@contextmanager
def standard_input():
    """Context with the path of a file that has what comes from standard input: its lines are JSON or texts."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "stdin.txt"
        path.write_bytes(sys.stdin.buffer.read())
        try:
            yield path
        except UserError as error:
            # Where the file is for so long is nobody's business.
            raise UserError(str(error).replace(str(path), "standard input")) from None


def scheduled(lengths, batch_size, longest, new_tokens):
    """Batches of rows that each take about the same number of tokens: lists of indices into lengths, the longest first.

    lengths: tokens of each source. new_tokens: those generated for a source, all its texts together. A batch of n rows
    takes n * (its longest source + new_tokens) tokens, and at most as many as batch_size rows of `longest` tokens do; a
    row that takes more by itself is a batch of its own. Every row is in one batch, and no batch has room for the next
    row. Raises UserError for a batch_size below 1.
    """
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1")
    budget = batch_size * (longest + new_tokens)
    batches = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # The first row of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * (lengths[batches[-1][0]] + new_tokens) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def answer_all(
    encoded, run_batch, tokenizer, *, batch_size, src_length, new_tokens, texts=1, progress=True, partial=None
):
    """Answers to encoded prompts, in their order.

    encoded: list of examples.Encoded. run_batch(prompts, row_ids) → ids [batch * texts, new], or a pair of them and of
    scores [batch * texts]. Prompts of similar length are decoded together, the longest first: batch_size of src_length
    tokens, of shorter ones as many more as scheduled() allows. new_tokens: most that are generated for a prompt, all
    its texts together. partial: partial_answers.PartialAnswers, which has some already and keeps the others as they
    come.
    """
    from tqdm import tqdm

    answers = [None] * len(encoded)
    for row, fields in (partial.done if partial else {}).items():
        answers[row] = Answer.of_generated(encoded[row], fields)
    missing = [row for row, answer in enumerate(answers) if answer is None]
    batches = scheduled([len(encoded[row].source_ids) for row in missing], batch_size, src_length, new_tokens)
    with tqdm(total=len(encoded), unit="prompt", disable=not progress, file=sys.stderr) as bar:
        bar.update(len(encoded) - len(missing))
        for batch in batches:
            rows = [missing[i] for i in batch]
            with named_rows([encoded[row].example.place for row in rows]):
                found = run_batch(examples.collate_prompts([encoded[i] for i in rows], tokenizer.eos_id), rows)
            ids, scores = found if isinstance(found, tuple) else (found, None)
            of_rows = np.reshape(ids, [-1, texts, ids.shape[-1]])
            scores = (
                [None] * len(rows)
                if scores is None
                else np.reshape(scores, [-1, texts]).astype("float64").round(6).tolist()
            )
            for row, row_ids, row_scores in zip(rows, of_rows, scores, strict=True):
                predictions = tuple(map(tokenizer.decode, row_ids))
                answers[row] = Answer(encoded[row], predictions, None if row_scores is None else tuple(row_scores))
            if partial:
                partial.add({row: answers[row].generated() for row in rows})
            bar.update(len(rows))
    return answers


@contextmanager
def named_rows(places):
    """Context in which a NotFiniteError is told with the places of its prompts."""
    try:
        yield
    except NotFiniteError as error:
        names = ", ".join(places[row] for row in error.rows)
        raise RunError(f"{names}: {str(error).partition(': ')[2]}") from None


def kept_answers(arguments, encoded, settings, writes=True):
    """The PartialAnswers beside the output file, None where answers go to the screen. Raises UserError.

    arguments: PromptArguments. settings: what the answers depend on besides prompts. writes: see PartialAnswers.
    """
    if arguments.output_file is None:
        if arguments.resume:
            raise UserError("--resume goes on with what is beside --output_file: give it, too")
        return None
    prompts = [(row.source_ids.tolist(), row.example.source, row.example.target) for row in encoded]
    return PartialAnswers(arguments.output_file, [prompts, settings], arguments.resume, writes)


@contextmanager
def interruptible(partial, count):
    """Context in which an interruption (Ctrl-C) is told together with what is kept of the answers, of `count`."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"{len(partial.done)} of {count} answers are kept in {partial.path}" if partial else "nothing is kept"
        more = "; the same command with --resume goes on" if partial else "; with --output_file it would be"
        raise Interrupted(signal.SIGINT, kept + more) from None


def report_answers(answers, arguments, read_report=None, partial=None):
    """Write a line for each answer to arguments.output_file, or to the screen if that is None; and say what was left
    out in reading.

    arguments: PromptArguments. partial: PartialAnswers that are not needed any more then. Raises RunError.
    """
    path = arguments.output_file
    line_of = prompt_line if arguments.only_predictions else RecordLines(arguments.with_source)
    if path is None:
        for answer in answers:
            json_text.show(printable_json(line_of(answer)))
    else:
        kept = f"the answers are kept in {partial.path}, --resume writes them" if partial else "nothing is kept"
        with product(path, f"{kept}: make room first"):
            write_lines(map(line_of, answers), path)
        if partial:
            partial.remove()
        say(f"{len(answers)} predictions written to {path}")
    if isinstance(line_of, RecordLines):
        line_of.report()
    if read_report is not None and read_report.skipped:
        note(read_report.summary())
