"""A fine-tuning run from arguments to results: what finetune_*.py have in common. Importing it imports paddle."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.trainer import set_seed
from paddlenlp.trainer.trainer_utils import get_last_checkpoint
from paddlenlp.utils.log import logger

import checkpoint
import data
import inference
import losses
import memory
import metrics
from arguments import UsageError, choice, to_generation_config
from callbacks import EarlyStopping, MetricsFile
from encoding import encode_dataset
from generation_config import check_positions
from utils import GLMTrainer


@dataclass
class ModelArguments:
    """The model to start from."""

    model_name_or_path: str = choice("THUDM/glm-large-chinese", "Directory or name of the model.")


@dataclass
class DataArguments:
    """Data, lengths, and how evaluation decodes."""

    task_name: str = choice(
        "dureader_qg", "dureader_qg, demo_qg, a JSON Lines file, or a directory with train.json and dev.json."
    )
    src_length: int = choice(608, "Longest source in tokens; of a longer one the context is cut, never the answer.")
    tgt_length: int = choice(160, "Longest target in tokens, end token included; longer ones are cut on the right.")
    min_tgt_length: int = choice(55, "Evaluation: shortest generated text in tokens.")
    length_penalty: float = choice(0.7, "Evaluation: beams compete by log p / ((length + 5) / 6) ** length_penalty.")
    no_repeat_ngram_size: int = choice(3, "Evaluation: no n-gram of this size occurs twice in a text; 0 allows all.")
    num_beams: int = choice(5, "Evaluation: beams of the search; 1 is greedy search.")
    select_topk: bool = choice(True, "Evaluation: take the most probable pieces (True) or draw (False).")
    top_k: int = choice(0, "Evaluation: draw from the top_k most probable pieces; 0 keeps all.")
    top_p: float = choice(0.0, "Evaluation: draw from pieces of this total probability; 0 or 1 keeps all.")
    temperature: float = choice(1.0, "Evaluation: logits are divided by it before drawing.")
    max_train_samples: int = choice(None, "Use only the first so many training records.")
    max_eval_samples: int = choice(None, "Use only the first so many evaluation records.")
    on_bad_data: str = choice("error", "An unusable record: stop, or leave it out.", choices=("error", "skip"))


def finetune(model_args, data_args, args, splits, template):
    """Train, evaluate and write every output of a run.

    model_args: ModelArguments. data_args: DataArguments. args: GLMTrainingArguments. splits: {"train": path or None,
    "dev": path or None}. template: name in data.TEMPLATES.
    """
    generation = to_generation_config(data_args, args.seed) if args.do_eval else None
    if args.dry_run:
        return dry_run(model_args, data_args, args, splits, template)
    last_checkpoint = prepare_output_dir(args)
    set_seed(args.seed)
    directory = checkpoint.resolve(model_args.model_name_or_path)
    tokenizer = checkpoint.load_tokenizer(directory)
    train_rows, eval_rows = load_splits(data_args, args, splits, template, tokenizer)
    model = checkpoint.load_model(directory)
    check_lengths(model.config, [*(train_rows or []), *(eval_rows or [])], data_args.tgt_length)
    logger.info(f"model: {directory}, {paddle.get_device()}, {os.environ.get('OMP_NUM_THREADS')} threads")
    print_memory(model, args, train_rows)
    if args.do_eval:
        for line in metrics.definition().splitlines():
            logger.info(line)

    trainer = GLMTrainer(
        model=model,
        args=args,
        tokenizer=tokenizer,
        generation=generation,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        callbacks=[MetricsFile(), *([EarlyStopping(patience)] if (patience := args.early_stopping_patience) else [])],
    )
    write_json({**vars(model_args), **vars(data_args), **args.to_dict()}, args.output_dir, "args.json")
    results = {}
    if args.do_train:
        results.update(train(trainer, last_checkpoint))
    if args.do_eval:
        results.update(evaluate(trainer))
    write_json(results, args.output_dir, "all_results.json")
    return results


def prepare_output_dir(args):
    """Make output_dir ready; return the checkpoint to resume from, or None.

    A directory with checkpoints is resumed; --overwrite_output_dir removes its checkpoints first. Results without a
    checkpoint are not overwritten unasked: UsageError.
    """
    directory = Path(args.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    if not args.do_train:
        return None
    if args.overwrite_output_dir:
        for old in directory.glob("checkpoint-*"):
            shutil.rmtree(old)
        return None
    if args.resume_from_checkpoint:
        if not os.path.isfile(os.path.join(args.resume_from_checkpoint, "trainer_state.json")):
            raise UsageError(f"--resume_from_checkpoint {args.resume_from_checkpoint} is no checkpoint directory")
        return args.resume_from_checkpoint
    last = get_last_checkpoint(args.output_dir)
    if last is None and (directory / "all_results.json").exists():
        raise UsageError(
            f"--output_dir {directory} holds the results of a run and no checkpoint to resume: give another directory, "
            "or --overwrite_output_dir to replace them"
        )
    if last is not None:
        logger.info(f"resuming from {last}; --overwrite_output_dir would start anew")
    return last


def dry_run(model_args, data_args, args, splits, template):
    """Read, check and encode the data, show them and the memory that a run needs; {} as results."""
    config, tokenizer = checkpoint.preview(model_args.model_name_or_path)
    train_rows = eval_rows = None
    if tokenizer is None:
        logger.warning(f"{model_args.model_name_or_path}: its tokenizer could not be downloaded; no data are read")
    else:
        train_rows, eval_rows = load_splits(data_args, args, splits, template, tokenizer)
        check_lengths(config, [*(train_rows or []), *(eval_rows or [])], data_args.tgt_length)
    print_memory(
        checkpoint.empty_model(config),
        args,
        train_rows,
        [(data_args.src_length, data_args.tgt_length)] * args.per_device_train_batch_size,
    )
    logger.info("dry run: nothing is trained")
    return {}


def load_splits(data_args, args, splits, template, tokenizer):
    """(training rows, evaluation rows), None for what is not asked for; with what a run's first lines say of them."""

    def load(split, wanted, count):
        path = splits[split]
        return load_rows(path, template, data_args, tokenizer, count, not args.disable_tqdm) if wanted else None

    train_rows = load("train", args.do_train, data_args.max_train_samples)
    eval_rows = load("dev", args.do_eval, data_args.max_eval_samples)
    warn_of_min_length(data_args, train_rows or eval_rows or [])
    for row in (train_rows or eval_rows or [])[:1]:
        for name, ids in (("source", row.source_ids), ("target", row.target_ids)):
            logger.info(f"first row, {name} of {len(ids)} tokens decoded back: {tokenizer.spelled(ids)}")
    return train_rows, eval_rows


def load_rows(path, template, data_args, tokenizer, max_samples, progress):
    """Encoded examples of a file, with a report of their lengths."""
    examples, report = data.load_examples(path, template, True, data_args.on_bad_data, max_samples)
    rows = encode_dataset(
        examples,
        tokenizer,
        data_args.src_length,
        data_args.tgt_length,
        data_args.on_bad_data,
        report,
        progress=progress,
    )
    logger.info(report.summary())
    statistics = data.length_statistics(rows)
    logger.info(f"{path}: " + ", ".join(f"{name} {value}" for name, value in statistics.items()))
    if statistics["target_cut"]:
        logger.warning(
            f"{statistics['target_cut']} targets were cut to {data_args.tgt_length} tokens; see --tgt_length"
        )
    return rows


def warn_of_min_length(data_args, rows):
    """Warn if evaluation is made to write more than the targets have."""
    warning = data.check_min_tgt_length([len(row.target_ids) - 1 for row in rows], data_args.min_tgt_length)
    if warning:
        logger.warning(warning)


def check_lengths(config, rows, tgt_length):
    """Raise UserError if positions would be needed that the model does not have."""
    longest = max((len(row.source_ids) for row in rows), default=0)
    check_positions(config.max_sequence_length + 1, longest, tgt_length)


def print_memory(model, args, train_rows, assumed=None):
    """Say how large a model is, and what training it takes.

    model: may have no weights yet. train_rows: data.Encoded; without them, rows of the lengths `assumed`, if any.
    """
    sizes = [int(np.prod(parameter.shape)) for parameter in model.parameters()]
    trained = sum(int(np.prod(parameter.shape)) for parameter in model.parameters() if not parameter.stop_gradient)
    logger.info(f"parameters: {sum(sizes):,}, of which trained: {trained:,}")
    lengths = [(len(row.source_ids), len(row.target_ids)) for row in train_rows or []] or assumed
    if not lengths:
        return
    capacity = max(map(sum, lengths)) if args.packing else None
    rows = memory.largest_micro_batch(lengths, args.per_device_train_batch_size, capacity)
    half = args.fp16_opt_level == "O2" and (args.fp16 or args.bf16)
    parts = memory.training_memory(
        model.config, sum(sizes), trained, rows, half=half, recompute=args.recompute, chunk=losses.CHUNK
    )
    figures = ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
    logger.info(f"estimated memory of training on each device, GiB: {figures}")


def train(trainer, last_checkpoint):
    """Train and save the model; the numbers for all_results.json."""
    result = trainer.train(resume_from_checkpoint=last_checkpoint)
    trainer.save_model()
    trainer.save_state()
    return {
        "train_loss": result.training_loss,
        "train_runtime": result.metrics["train_runtime"],
        "train_tokens_per_second": round(trainer.meter.mean(), 1),
    }


def evaluate(trainer):
    """Evaluate, write predictions.jsonl; the numbers for all_results.json."""
    scores = trainer.scores or trainer.evaluate()
    if trainer.answers:
        inference.write_answers(trainer.answers, Path(trainer.args.output_dir) / "predictions.jsonl")
    renamed = {}
    for name, value in scores.items():
        bare = name.removeprefix("eval_")
        renamed[bare if bare in metrics.SCORES else name] = value
    for name in ("eval_loss", "eval_perplexity", *metrics.SCORES):
        if name in renamed:
            logger.info(f"{name}: {renamed[name]:.4f}")
    return renamed


def write_json(content, directory, name):
    """Write a JSON file into a directory."""
    text = json.dumps(content, ensure_ascii=False, indent=2, default=str)
    (Path(directory) / name).write_text(text + "\n", encoding="utf8")
