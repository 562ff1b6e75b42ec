"""From prompts to texts, whatever decodes them: scheduling, the example prompts, the output file. numpy only."""

import json
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
from errors import Interrupted, UserError
from partial_answers import PartialAnswers
from templates import TEMPLATES, Example, load_examples, template_of

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


def example_prompts():
    """The two example prompts, as templates.Example."""
    prompt = TEMPLATES["qg"].prompt
    return [Example(**prompt(record), place=f"example {i + 1}") for i, record in enumerate(EXAMPLE_RECORDS)]


def load_prompts(arguments):
    """Examples to answer and the reader's report (None for the example prompts); arguments: PromptArguments."""
    if arguments.data_file is None:
        return example_prompts(), None
    if arguments.data_file == STDIN:
        with standard_input() as path:
            return load_file(path, arguments)
    return load_file(arguments.data_file, arguments)


def load_file(path, arguments):
    """Examples of a file and the reader's report."""
    template = arguments.template or template_of(path, otherwise="qg")
    return load_examples(path, template, need_target=False, on_bad_data=arguments.on_bad_data)


@contextmanager
def standard_input():
    """Context with the path of a file that has what comes from standard input: its lines are JSON or texts."""
    content = sys.stdin.buffer.read()
    suffix = ".jsonl" if content.lstrip()[:1] in (b"{", b"[") else ".txt"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"stdin{suffix}"
        path.write_bytes(content)
        try:
            yield path
        except UserError as error:
            # Where the file is for so long is nobody's business.
            raise UserError(str(error).replace(str(path), "standard input")) from None


@dataclass
class Answer:
    """One prompt with what was generated for it.

    predictions: the texts, best first. scores: theirs, if they were asked for; see GenerationConfig.output_scores.
    """

    source: str
    predictions: tuple[str, ...]
    target: str | None = None
    scores: tuple[float, ...] | None = None

    @property
    def prediction(self):
        """The best text."""
        return self.predictions[0]

    def as_dict(self):
        """The fields of a line of predictions.jsonl: target where it is known, lists where there are several texts."""
        fields = {"source": self.source, "target": self.target, "prediction": self.prediction}
        several = len(self.predictions) > 1
        fields["predictions"] = list(self.predictions) if several else None
        fields["score"] = self.scores[0] if self.scores else None
        fields["scores"] = list(self.scores) if self.scores and several else None
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def of_dict(cls, fields):
        """The Answer that as_dict() made fields of."""
        scores = fields.get("scores") or ([fields["score"]] if "score" in fields else None)
        predictions = fields.get("predictions") or [fields["prediction"]]
        return cls(fields["source"], tuple(predictions), fields.get("target"), scores and tuple(scores))


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

    encoded: list of data.Encoded. run_batch(prompts, row_ids) → ids [batch * texts, new], or a pair of them and of
    scores [batch * texts]. Prompts of similar length are decoded together, the longest first: batch_size of src_length
    tokens, of shorter ones as many more as scheduled() allows. new_tokens: most that are generated for a prompt, all
    its texts together. partial: partial_answers.PartialAnswers, which has some already and keeps the others as they
    come.
    """
    from tqdm import tqdm

    answers = [None] * len(encoded)
    for row, fields in (partial.done if partial else {}).items():
        answers[row] = Answer.of_dict(fields)
    missing = [row for row, answer in enumerate(answers) if answer is None]
    batches = scheduled([len(encoded[row].source_ids) for row in missing], batch_size, src_length, new_tokens)
    with tqdm(total=len(encoded), unit="prompt", disable=not progress, file=sys.stderr) as bar:
        bar.update(len(encoded) - len(missing))
        for batch in batches:
            rows = [missing[i] for i in batch]
            found = run_batch(data.collate_prompts([encoded[i] for i in rows], tokenizer.eos_id), rows)
            ids, scores = found if isinstance(found, tuple) else (found, None)
            of_rows = np.reshape(ids, [-1, texts, ids.shape[-1]])
            scores = (
                [None] * len(rows)
                if scores is None
                else np.reshape(scores, [-1, texts]).astype("float64").round(6).tolist()
            )
            for row, row_ids, row_scores in zip(rows, of_rows, scores, strict=True):
                example, predictions = encoded[row].example, tuple(map(tokenizer.decode, row_ids))
                answers[row] = Answer(
                    example.source, predictions, example.target, None if row_scores is None else tuple(row_scores)
                )
            if partial:
                partial.add({row: answers[row].as_dict() for row in rows})
            bar.update(len(rows))
    return answers


def kept_answers(arguments, encoded, settings, writes=True):
    """The PartialAnswers beside the output file, None where answers go to the screen. Raises UserError.

    arguments: PromptArguments. settings: what the answers depend on besides prompts. writes: see PartialAnswers.
    """
    if arguments.output_file is None:
        if arguments.resume:
            raise UserError("--resume goes on with what is beside --output_file: give it, too")
        return None
    prompts = [row.source_ids.tolist() for row in encoded]
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


def write_answers(answers, path):
    """Write answers as JSON Lines."""
    with open(path, "w", encoding="utf8") as file:
        for answer in answers:
            file.write(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n")


def report_answers(answers, path, read_report=None, partial=None):
    """Write answers to the file at path, or to the screen if it is None; and say what was left out in reading.

    partial: PartialAnswers that are not needed any more then.
    """
    if path is None:
        for answer in answers:
            print(json.dumps(answer.as_dict(), ensure_ascii=False))
    else:
        write_answers(answers, path)
        if partial:
            partial.remove()
        print(f"{len(answers)} predictions written to {path}")
    if read_report is not None and read_report.skipped:
        print(read_report.summary(), file=sys.stderr)
