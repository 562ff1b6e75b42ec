"""python -m glm.metrics of a file of pairs: read, judged anew if another judge is asked for, scored, told."""

import json

from glm.data.examples import encode
from glm.data.records import iter_records
from glm.data.templates import TASKS
from glm.data.validation import DataError, Fields
from glm.decoding.generation_config import GenerationConfig
from glm.errors import note
from glm.inference.answers import answer_all
from glm.inference.binding import Binding
from glm.pairs import scores
from glm.pairs.judging import round_trip

PAIR = Fields(("passage", "answer", "question"), ("document",))
REFERENCE = Fields(("context", "question", "answer"))
# How the judge answers: as generate_pairs.py does by default.
JUDGE = GenerationConfig(max_new_tokens=32, num_beams=4, num_return_sequences=4, length_penalty=0.0, within_source=True)
BATCH, SRC_LENGTH, ROOM = 8, 1023, 40


def read_pairs(path):
    """All pairs of a file. Raises DataError."""
    pairs = []
    for record in iter_records(path, PAIR):
        trip = record.fields.get("round_trip")
        if not isinstance(trip, dict) or not {"exact", "beam", "f1"} <= trip.keys():
            raise DataError(f"{record.place}: round_trip has no exact, beam and f1; give a file of generate_pairs.py")
        pairs.append(record.fields)
    return pairs


def judged(pairs, run, tokenizer, positions):
    """The pairs with the round trips of another model. run, positions: as of pipeline.generate()."""
    examples = [TASKS["answer"].example({"question": one["question"], "context": one["passage"]}) for one in pairs]
    length = min(SRC_LENGTH, positions - 1)
    rows = [encode(example, tokenizer, length, 2, need_target=False) for example in examples]
    found = answer_all(
        rows,
        lambda prompts, numbers: run(prompts, JUDGE, numbers),
        tokenizer,
        batch_size=BATCH,
        src_length=max(len(row.source_ids) for row in rows),
        new_tokens=JUDGE.new_tokens_a_prompt,
        texts=JUDGE.num_return_sequences,
        binding=Binding(tokenizer),
    )
    return [
        {**pair, "round_trip": round_trip(pair["answer"], one.predictions)}
        for pair, one in zip(pairs, found, strict=True)
    ]


def of_file(path, references=None, bootstrap=0, judge_model=None):
    """Scores of a file of pairs as one dict. references: a data file with context, question and answer. bootstrap:
    samples for intervals; 0 makes none. judge_model: directory of a model that answers in place of the one that made
    the pairs. Raises UserError, ValueError."""
    pairs = read_pairs(path)
    if judge_model is not None:
        pairs = judged(pairs, *opened(judge_model))
    result = {"judge": judge_model or "itself", **scores.scores(pairs)}
    if references is not None:
        known = [record.fields for record in iter_records(references, REFERENCE)]
        result |= scores.reference_scores(pairs, known)
    if bootstrap:
        result["intervals_95"] = scores.intervals(pairs, bootstrap)
    return result


def opened(directory):
    """(run, tokenizer, positions) of a model in a directory."""
    from glm.export import engines
    from glm.weights import model_directory

    directory = model_directory.resolve(directory)
    tokenizer = model_directory.load_tokenizer(directory)
    positions = model_directory.load_config(directory).max_sequence_length + 1
    return engines.opened("auto", directory, None, tokenizer).run, tokenizer, positions


def show(result):
    """Print scores as JSON, and what they mean on standard error."""
    print(json.dumps(rounded(result), indent=2, ensure_ascii=False))
    note(scores.DEFINITION)


def rounded(value):
    """A value with its numbers rounded to 4 places."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
