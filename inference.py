"""From prompts to texts, whatever decodes them: scheduling, the example prompts, the output file. numpy only."""

import json
import sys
from dataclasses import dataclass

import data
from errors import UserError
from templates import TEMPLATES, Example, load_examples, template_of

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
    template = template_of(arguments.data_file, otherwise="qg")
    return load_examples(arguments.data_file, template, need_target=False, on_bad_data=arguments.on_bad_data)


@dataclass
class Answer:
    """One prompt with what was generated for it."""

    source: str
    prediction: str
    target: str | None = None

    def as_dict(self):
        """The fields of a line of predictions.jsonl; target where it is known."""
        fields = {"source": self.source, "prediction": self.prediction}
        return (
            fields
            if self.target is None
            else {"source": self.source, "target": self.target, "prediction": self.prediction}
        )


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


def answer_all(encoded, run_batch, tokenizer, *, batch_size, src_length, new_tokens, progress=True):
    """Answers to encoded prompts, in their order.

    encoded: list of data.Encoded. run_batch(prompts, row_ids) → ids [batch, new]. Prompts of similar length are decoded
    together, the longest first: batch_size of src_length tokens, of shorter ones as many more as scheduled() allows.
    new_tokens: most that are generated for a prompt, all its texts together.
    """
    from tqdm import tqdm

    answers = [None] * len(encoded)
    batches = scheduled([len(row.source_ids) for row in encoded], batch_size, src_length, new_tokens)
    with tqdm(total=len(encoded), unit="prompt", disable=not progress, file=sys.stderr) as bar:
        for rows in batches:
            ids = run_batch(data.collate_prompts([encoded[i] for i in rows], tokenizer.eos_id), rows)
            for i, row_ids in zip(rows, ids, strict=True):
                example = encoded[i].example
                answers[i] = Answer(example.source, tokenizer.decode(row_ids), example.target)
            bar.update(len(rows))
    return answers


def write_answers(answers, path):
    """Write answers as JSON Lines."""
    with open(path, "w", encoding="utf8") as file:
        for answer in answers:
            file.write(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n")


def report_answers(answers, path, read_report=None):
    """Write answers to the file at path, or to the screen if it is None; and say what was left out in reading."""
    if path is None:
        for answer in answers:
            print(json.dumps(answer.as_dict(), ensure_ascii=False))
    else:
        write_answers(answers, path)
        print(f"{len(answers)} predictions written to {path}")
    if read_report is not None and read_report.skipped:
        print(read_report.summary(), file=sys.stderr)
