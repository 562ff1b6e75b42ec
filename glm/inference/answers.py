"""From prompts to texts, whatever decodes them: batches, order, parts, output files. numpy only."""

import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glm import json_text
from glm.command_line import UsageError
from glm.decoding.generation_config import GenerationConfig, NotFiniteError, check_positions
from glm.errors import Interrupted, RunError, UserError, note, printable_json, say, tell_launcher
from glm.files import locks, places
from glm.files.guarded import product, whole_file
from glm.inference.answer_lines import Answer, RecordLines, prompt_line
from glm.inference.arguments import PromptArguments
from glm.inference.binding import Binding, of_flags, prompts_of
from glm.inference.partial_answers import PartialAnswers, is_complete, key_of, path_of
from glm.inference.parts import WHOLE, Part
from glm.inference.prompts import STDIN, Prompts, opened, refuse_to_replace_data
from glm.inference.stops import cut


def answer_prompts(arguments, tokenizer, config, settings, open_decoder, positions=None, part=WHOLE, writes=True):
    """Answer all prompts that are asked for, and write what comes of it.

    arguments: PromptArguments. config: GenerationConfig. settings: what the answers depend on besides prompts.
    open_decoder(longest, needed), called once all prompts were read and encoded, of which the longest has so many
    tokens, gives the run_batch of answer_all(), or nothing where it is not needed. positions: rows of the model's
    position tables, where known by now. part, writes: see parts.launched(). Raises UserError and RunError.
    """
    part = part_of(arguments, part)
    if arguments.output_file is not None and writes:
        places.check_file(arguments.output_file, "--output_file")
    refuse_to_replace_data(arguments, part)
    if arguments.resume and arguments.output_file is None:
        raise UserError("--resume goes on with what is beside --output_file: give it, too")
    with opened(arguments, tokenizer.preparation) as source:
        binding = of_flags(arguments, config, tokenizer)
        check = binding and binding.edges_of
        prompts = Prompts(source, tokenizer, arguments.src_length, arguments.on_bad_data, writes, check)
        if positions is not None:
            check_positions(positions, prompts.longest, config.max_new_tokens)
        if binding is not None:
            settings = [*settings, binding.settings]
        job = Job(arguments, prompts, tokenizer, config, settings, part, writes, binding)
        job.to_file(open_decoder) if arguments.output_file else job.to_screen(open_decoder)


def part_of(arguments, launched):
    """The Part that flags ask for, or else that the launcher has given this process. Raises UsageError."""
    if arguments.part:
        if launched.count > 1:
            raise UsageError("--part: launched processes share the prompts out by themselves; leave it out")
        return Part.parse(arguments.part)
    if launched.count > 1 and (arguments.output_file is None or arguments.data_file == STDIN):
        missing = "--output_file FILE" if arguments.output_file is None else "a file as --data_file"
        raise UsageError(
            f"{launched.count} processes share the prompts out, and keep their parts beside the output: give {missing}"
        )
    return launched


@dataclass
class Job:
    """Prompts to answer; the fields are those of answer_prompts()."""

    arguments: PromptArguments
    prompts: Prompts
    tokenizer: object
    config: GenerationConfig
    settings: list
    part: Part = WHOLE
    writes: bool = True
    binding: Binding | None = None

    def to_screen(self, open_decoder):
        """Show the answers, a window at a time."""
        found = self.answers(open_decoder(self.prompts.longest, True))
        with interruptible(None, self.prompts.count):
            if self.writes:
                report_answers(found, self.arguments, self.prompts)
            else:
                exhaust(found)

    def to_file(self, open_decoder):
        """Write the answers, or keep those of a part; the last part to be done writes all."""
        path = path_of(self.arguments.output_file, self.part)
        with output_lock((self.arguments.output_file if self.part == WHOLE else path) if self.writes else None):
            kept = PartialAnswers(path, self.key(), self.arguments.resume, self.writes)
            run_batch = open_decoder(self.prompts.longest, not kept.is_complete)
            with interruptible(kept, self.prompts.count):
                found = self.answers(run_batch, [kept])
                if self.part == WHOLE and self.writes:
                    return report_answers(found, self.arguments, self.prompts, [kept])
                if not kept.is_complete:
                    exhaust(found)
                    kept.complete()
        return self.join() if self.part != WHOLE and self.writes else None

    def key(self):
        """What the answers depend on, see partial_answers.key_of()."""
        # Which part a batch belongs to depends on what is in one.
        of_parts = [] if self.part == WHOLE else [self.part.count, self.arguments.batch_size]
        return key_of([self.prompts.digests, self.settings, *of_parts])

    def join(self):
        """Write the answers of all parts, if this one was the last to be done."""
        output, key = self.arguments.output_file, self.key()
        paths = [path_of(output, part) for part in self.part.siblings()]
        try:
            with output_lock(output):
                if not paths[self.part.number].exists():
                    return None  # another one has written all
                if missing := [path for path in paths if not is_complete(path, key)]:
                    told = f"{len(missing)} of {len(paths)} parts are still to come, such as {missing[0]}"
                    return note(f"part {self.part} is done; {told}")
                # All is there, so that nothing is decoded.
                kept = [PartialAnswers(path, key, resume=True, writes=False) for path in paths]
                report_answers(self.answers(None, kept), self.arguments, self.prompts, kept)
        except locks.LockedError:
            note(f"part {self.part} is done; another process writes {output}")
        return None

    def answers(self, run_batch, kept=()):
        """Yield the Answers of the part, in the order of their prompts; run_batch: see answer_all(). kept: the
        PartialAnswers that have some already; where there is one, it gets the others as they come. Without a run_batch
        all are taken from there. Raises RunError."""
        from tqdm import tqdm

        with tqdm(total=self.prompts.count, unit="prompt", disable=not self.writes, file=sys.stderr) as bar:
            for number, (first, rows) in enumerate(self.prompts.windows()):
                found = self.known(first, rows, kept)
                bar.update(len(found))
                if run_batch is not None:
                    self.decode(number, first, rows, found, run_batch, kept, bar)
                elif len(found) < len(rows):
                    raise RunError(f"{kept[0].path}: answers are missing; remove it and start this part anew")
                if first + len(rows) == self.prompts.count:
                    bar.close()
                elif not self.arguments.output_file:
                    # What is shown now is not to stand on the bar's line.
                    bar.clear()
                yield from (found[row] for row in sorted(found))

    def known(self, first, rows, kept):
        """{row of the window: Answer} of what is kept."""
        return {
            row - first: Answer.of_generated(rows[row - first], fields)
            for one in kept
            for row, fields in one.before(first + len(rows)).items()
            if row >= first
        }

    def decode(self, number, first, rows, found, run_batch, kept, bar):
        """Add to `found` the Answers of a window that are missing there and belong to the part."""
        lengths = [len(row.source_ids) for row in rows]
        longest, new_tokens = self.arguments.src_length, self.config.new_tokens_a_prompt
        for i, batch in enumerate(scheduled(lengths, self.arguments.batch_size, longest, new_tokens)):
            missing = [row for row in batch if row not in found]
            if missing and self.part.has(number, i):
                # All of it again, if a line was lost: scores depend on what is in a batch in their last digits.
                numbers = [first + row for row in batch]
                texts = self.config.num_return_sequences
                of_batch = [rows[row] for row in batch]
                stop = self.config.stop
                answers = decoded(of_batch, numbers, run_batch, self.tokenizer, texts, self.binding, stop)
                new = {row: answer for row, answer in zip(batch, answers, strict=True) if row not in found}
                found.update(new)
                for one in kept:
                    one.add({first + row: answer.generated() for row, answer in new.items()})
            bar.update(len(missing))


def exhaust(answers):
    """Have all answers come; they are kept on their way."""
    for _ in answers:
        pass


@contextmanager
def output_lock(path):
    """Context in which no other process writes answers into a file; None is the screen. Raises LockedError."""
    if path is None or (Path(path).exists() and not Path(path).is_file()):
        yield
        return
    with locks.held_for(path):
        yield


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
    encoded,
    run_batch,
    tokenizer,
    *,
    batch_size,
    src_length,
    new_tokens,
    texts=1,
    progress=True,
    part=WHOLE,
    binding=None,
):
    """Answers to encoded prompts, in their order; None for those of other parts.

    encoded: list of examples.Encoded. run_batch(prompts, row_ids) → ids [batch * texts, new], or a pair of them and of
    scores [batch * texts]. Prompts of similar length are decoded together, the longest first: batch_size of src_length
    tokens, of shorter ones as many more as scheduled() allows. new_tokens: most that are generated for a prompt, all
    its texts together. binding: binding.Binding of the texts, None where they are free.
    """
    from tqdm import tqdm

    answers = [None] * len(encoded)
    batches = scheduled([len(row.source_ids) for row in encoded], batch_size, src_length, new_tokens)
    with tqdm(total=len(encoded), unit="prompt", disable=not progress, file=sys.stderr) as bar:
        for i, batch in enumerate(batches):
            if part.has(0, i):
                found = decoded([encoded[row] for row in batch], batch, run_batch, tokenizer, texts, binding)
                for row, answer in zip(batch, found, strict=True):
                    answers[row] = answer
            bar.update(len(batch))
    return answers


def decoded(rows, numbers, run_batch, tokenizer, texts, binding=None, stop=()):
    """The Answers of a batch of examples.Encoded, which have these numbers among all; see answer_all(). Of bound texts
    each is given once, so that there may be fewer than `texts`. stop: texts before which answers end."""
    prompts = prompts_of(rows, tokenizer.eos_id, binding)
    with named_rows([row.example.place for row in rows]):
        found = run_batch(prompts, numbers)
    ids, scores = found if isinstance(found, tuple) else (found, None)
    of_rows = np.reshape(ids, [-1, texts, ids.shape[-1]])
    if scores is None:
        scores = [None] * len(rows)
    else:
        scores = map(tuple, np.reshape(scores, [-1, texts]).astype("float64").round(6).tolist())
    answers = [
        Answer(row, tuple(cut(tokenizer.decode(ids), stop) for ids in row_ids), row_scores)
        for row, row_ids, row_scores in zip(rows, of_rows, scores, strict=True)
    ]
    return answers if binding is None else [answer.distinct() for answer in answers]


@contextmanager
def named_rows(places):
    """Context in which a NotFiniteError is told with the places of its prompts."""
    try:
        yield
    except NotFiniteError as error:
        names = ", ".join(places[row] for row in error.rows)
        raise RunError(f"{names}: {str(error).partition(': ')[2]}") from None


@contextmanager
def interruptible(kept, count):
    """Context in which an interruption (Ctrl-C) is told together with what is kept of the answers, of `count`."""
    try:
        yield
    except KeyboardInterrupt:
        told = f"{kept.count} of {count} answers are kept in {kept.path}" if kept else "nothing is kept"
        more = "; the same command with --resume goes on" if kept else "; with --output_file it would be"
        raise Interrupted(signal.SIGINT, told + more) from None


def report_answers(answers, arguments, prompts=None, kept=()):
    """Write a line for each of an iterable of answers to arguments.output_file, or to the screen if that is None; and
    say what was left out in reading, and what no model has read.

    arguments: PromptArguments. prompts: the Prompts. kept: PartialAnswers that are not needed any more then. Raises
    RunError.
    """
    path = arguments.output_file
    line_of = prompt_line if arguments.only_predictions else RecordLines(arguments.with_source)
    if path is None:
        for answer in answers:
            json_text.show(printable_json(line_of(answer)))
    else:
        told = f"the answers are kept in {kept[0].path}, --resume writes them" if kept else "nothing is kept"
        count = 0
        with product(path, f"{told}: make room first"), whole_file(path) as file:
            for answer in answers:
                file.write(line_of(answer) + "\n")
                count += 1
        for one in kept:
            one.remove()
        tell(say, f"{count} predictions written to {path}")
    if isinstance(line_of, RecordLines) and (replaced := line_of.told()):
        tell(note, replaced)
    if prompts is not None and prompts.report.skipped:
        tell(note, prompts.report.summary())
    if prompts is not None and (lost := prompts.lost.told(arguments.src_length)):
        tell(note, lost)


def tell(how, line):
    """Say or note a line, and where the job was started, whichever of its processes this is."""
    how(line)
    tell_launcher(line)
