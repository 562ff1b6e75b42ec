"""A fine-tuning run from arguments to results: what finetune_*.py have in common. Importing it imports paddle."""

import os
import shutil
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from paddlenlp.trainer import set_seed
from paddlenlp.trainer.trainer import TRAINER_STATE_NAME
from paddlenlp.utils.log import logger

import adapters
import checkpoint
import data
import inference
import losses
import manifest
import memory
import metrics
import saving
import tasks
from arguments import UsageError, effective_config, to_generation_config
from callbacks import EarlyStopping, MetricsFile
from display import Progress
from encoding import encode_file, encode_texts
from errors import UserError, end_without_destructors
from generation_config import check_positions
from lora import add_lora
from memory import OutOfMemory
from model_weights import write_json
from parallel import Ranks, gather_objects
from templates import Selection
from training_state import ARGUMENTS_FILE
from utils import GLMTrainer


def finetune(model_args, data_args, lora_args, args, locate, template):
    """Train, evaluate and write every output of a run.

    The arguments are those of training_arguments. locate(need_train, need_dev) gives the splits' files, see tasks.
    template: name in templates.TEMPLATES.
    """
    if args.world_size > 1:
        end_without_destructors()
    generation = to_generation_config(data_args, args.seed) if args.do_eval else None
    if args.dry_run:
        return dry_run(model_args, data_args, lora_args, args, locate, template)
    selections = select(data_args, args, locate(args.do_train, args.do_eval), template)
    last_checkpoint = prepare_output_dir(args)
    set_seed(args.seed)
    directory = checkpoint.resolve(model_args.model_name_or_path)
    tokenizer = checkpoint.load_tokenizer(directory)
    train_rows, eval_rows = load_splits(data_args, args, selections, tokenizer)
    numbers = template == "instruction" and has_numbers(eval_rows or [])
    if args.metric_for_best_model.endswith("number_match") and not numbers:
        raise UsageError("--metric_for_best_model number_match needs instructions whose answers have numbers in them")
    model, files = load_model(model_args, lora_args, args, directory, tokenizer)
    check_lengths(model.config, (train_rows, eval_rows), data_args.tgt_length)
    processes = f"{args.world_size} processes, " if args.world_size > 1 else ""
    threads = os.environ.get("OMP_NUM_THREADS")
    logger.info(f"model: {directory}; {processes}{paddle.get_device()}, {threads} threads each")
    estimate = print_memory(model, args, train_rows)
    if args.do_eval:
        for line in metrics.definition(numbers).splitlines():
            logger.info(line)

    arguments = effective_config(model_args, data_args, lora_args, args)

    def make_trainer():
        patience = args.early_stopping_patience
        return GLMTrainer(
            model=model,
            args=args,
            tokenizer=tokenizer,
            generation=generation,
            files=files,
            score_numbers=numbers,
            arguments=arguments,
            estimate=estimate,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            callbacks=[Progress(), MetricsFile(), *([EarlyStopping(patience)] if patience else [])],
        )

    if args.should_save:
        write_json(arguments, Path(args.output_dir) / ARGUMENTS_FILE)
    trainer, results = train(make_trainer, args, last_checkpoint) if args.do_train else (make_trainer(), {})
    if args.do_eval:
        results.update(evaluate(trainer))
    if args.should_save:
        write_json(results, Path(args.output_dir) / "all_results.json")
    return results


def load_model(model_args, lora_args, args, directory, tokenizer):
    """(model, what saves and loads the part of it that is trained): all of it, or a LoRA adapter."""
    ranks = args.tensor_parallel_ranks
    if not lora_args.lora:
        model = checkpoint.load_model(directory, ranks=ranks)
        return model, (checkpoint.WholeModel if ranks.size == 1 else checkpoint.ShardedModel)(model, tokenizer)
    config, fingerprint = lora_config(lora_args), {}
    model = checkpoint.load_model(directory, fingerprint=fingerprint, ranks=ranks)
    add_lora(model, config, args.seed, lora_args.lora_plus_scale)
    adapter = adapters.Adapter(model, config, model_args.model_name_or_path, fingerprint)
    if lora_args.lora_path:
        adapter.load(lora_args.lora_path)
    return model, adapter


def lora_config(lora_args):
    """The LoraConfig of a run: what was asked for, and for the rest what the adapter to go on from has."""
    return lora_args.config(adapters.read_config(lora_args.lora_path)[0] if lora_args.lora_path else None)


def select(data_args, args, splits, template):
    """{"train": templates.Selection, "dev": …} of what a run needs; what it does not need is left out."""
    needed = {"train": args.do_train, "dev": args.do_eval}
    counts = {"train": data_args.max_train_samples, "dev": data_args.max_eval_samples}
    parts = tasks.parts(splits, needed, data_args.dev_ratio, args.seed)
    history = getattr(data_args, "train_on_history", False)
    return {
        split: Selection(
            path,
            template,
            on_bad_data=data_args.on_bad_data,
            max_samples=counts[split],
            part=part,
            with_history=history and split == "train",
        )
        for split, (path, part) in parts.items()
    }


def prepare_output_dir(args):
    """Make output_dir ready; return the checkpoint to resume from, or None; the same on all ranks.

    A directory with checkpoints is resumed from the newest whole one; --overwrite_output_dir removes its checkpoints
    first. Results without a checkpoint are not overwritten unasked: UsageError.
    """
    found = answer_of_first_rank(lambda: prepare(args))
    if found is not None:
        logger.info(f"resuming from {found}; --overwrite_output_dir would start anew")
    return found


def answer_of_first_rank(question):
    """What a function returns on the first rank, which alone calls it, or the UserError that it raises there."""
    answer = error = None
    if dist.get_rank() == 0:
        try:
            answer = question()
        except UserError as mistake:
            error = mistake
    if dist.get_world_size() > 1:
        answer, error = gather_objects((answer, error))[0]
    if error is not None:
        raise error
    return answer


def prepare(args):
    """See prepare_output_dir(); on one rank."""
    directory = Path(args.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    if not args.do_train:
        return None
    saving.clean(directory)
    if args.overwrite_output_dir:
        for old in directory.glob("checkpoint-*"):
            shutil.rmtree(old)
        return None
    if args.resume_from_checkpoint:
        return asked_checkpoint(Path(args.resume_from_checkpoint))
    last = saving.newest_whole(directory, logger.warning)
    if last is None and (directory / "all_results.json").exists():
        raise UsageError(
            f"--output_dir {directory} holds the results of a run and no checkpoint to resume: give another directory, "
            "or --overwrite_output_dir to replace them"
        )
    return last and str(last)


def asked_checkpoint(path):
    """The directory that --resume_from_checkpoint names. Raises UsageError if it is no whole checkpoint."""
    if not (path / TRAINER_STATE_NAME).is_file() and not (path / manifest.FILE).is_file():
        raise UsageError(
            f"--resume_from_checkpoint {path} is no checkpoint directory; give a checkpoint-N that a run has written"
        )
    try:
        manifest.verify(path, required=True)
    except manifest.DamageError as error:
        raise UsageError(f"--resume_from_checkpoint {path} is not whole: {error}") from None
    return str(path)


def dry_run(model_args, data_args, lora_args, args, locate, template):
    """Read, check and encode the data, show them and the memory that a run needs; {} as results.

    What cannot be downloaded is done without: rows of the greatest lengths are then assumed.
    """
    config, tokenizer = checkpoint.preview(model_args.model_name_or_path)
    train_rows, eval_rows, selections = None, None, {}
    try:
        selections = select(data_args, args, locate(args.do_train, args.do_eval), template)
    except tasks.DownloadError as error:
        logger.warning(f"{error}; no data are read")
    if tokenizer is None:
        logger.warning(f"{model_args.model_name_or_path}: its tokenizer could not be downloaded; no data are read")
    else:
        train_rows, eval_rows = load_splits(data_args, args, selections, tokenizer)
        check_lengths(config, (train_rows, eval_rows), data_args.tgt_length)
    model = checkpoint.empty_model(config, Ranks.imagined(args.asked_degree))
    if lora_args.lora:
        add_lora(model, lora_config(lora_args))
    assumed = [(data_args.src_length, data_args.tgt_length)] * args.per_device_train_batch_size
    print_memory(model, args, train_rows, assumed, half=args.asked_for_half)
    logger.info("dry run: nothing is trained")
    return {}


def load_splits(data_args, args, selections, tokenizer):
    """(training rows, evaluation rows), None for what is not asked for; with what a run's first lines say of them."""
    settings = tokenizer, data_args.src_length, data_args.tgt_length
    progress = not args.disable_tqdm
    train_rows = eval_rows = None
    if selection := selections.get("train"):
        train_rows = encode_file(selection, *settings, progress=progress)
        report_rows(train_rows, train_rows.report, data_args)
    if selection := selections.get("dev"):
        eval_rows, report = encode_texts(selection, *settings, progress=progress)
        report_rows(eval_rows, report, data_args)
    rows = train_rows or eval_rows or []
    warn_of_min_length(data_args, rows)
    for row in (rows[i] for i in range(min(1, len(rows)))):
        for name, ids in (("source", row.source_ids), ("target", row.target_ids)):
            logger.info(f"first row, {name} of {len(ids)} tokens decoded back: {tokenizer.spelled(ids)}")
    return train_rows, eval_rows


def report_rows(rows, report, data_args):
    """Say how many rows there are, how long they are and what was wrong with them."""
    logger.info(report.summary())
    statistics = data.length_statistics(data.lengths_of(rows))
    logger.info(f"{report.path}: " + ", ".join(f"{name} {value}" for name, value in statistics.items()))
    if statistics["target_cut"]:
        logger.warning(
            f"{statistics['target_cut']} targets were cut to {data_args.tgt_length} tokens; see --tgt_length"
        )


def has_numbers(rows):
    """Whether a target of rows with texts has a number in it."""
    return any(metrics.final_number(row.example.target) is not None for row in rows)


def warn_of_min_length(data_args, rows):
    """Warn if evaluation is made to write more than the targets have."""
    warning = data.check_min_tgt_length(data.lengths_of(rows)[:, 1] - 1, data_args.min_tgt_length)
    if warning:
        logger.warning(warning)


def check_lengths(config, splits, tgt_length):
    """Raise UserError if positions would be needed that the model does not have; splits: rows, or None."""
    longest = max((data.lengths_of(rows)[:, 0].max() for rows in splits if rows), default=0)
    check_positions(config.max_sequence_length + 1, int(longest), tgt_length)


def print_memory(model, args, train_rows, assumed=None, half=None):
    """Say how large a model is, and what training it takes; that in GiB, None without rows.

    model: may have no weights yet. train_rows: data.Encoded; without them, rows of the lengths `assumed`, if any. half:
    whether weights are float16 or bfloat16; default: as in this run.
    """
    sizes = [int(np.prod(parameter.shape)) for parameter in model.parameters()]
    trained = sum(int(np.prod(parameter.shape)) for parameter in model.parameters() if not parameter.stop_gradient)
    of_rank = f" of each of {model.ranks.size} ranks" if model.ranks.size > 1 else ""
    logger.info(f"parameters{of_rank}: {sum(sizes):,}, of which trained: {trained:,}")
    lengths = data.lengths_of(train_rows)[:, :2] if train_rows else assumed
    if lengths is None:
        return None
    capacity = int(np.sum(lengths, axis=1).max()) if args.packing else None
    rows = memory.largest_micro_batch(lengths, args.per_device_train_batch_size, capacity)
    half = args.fp16_opt_level == "O2" and (args.fp16 or args.bf16) if half is None else half
    parts = memory.training_memory(
        model.config,
        sum(sizes),
        trained,
        rows,
        half=half,
        recompute=args.recompute,
        chunk=losses.CHUNK,
        degree=model.ranks.size,
    )
    figures = ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
    kind = "half precision" if half else "float32"
    logger.info(f"estimated memory of training on each device in {kind}, GiB: {figures}")
    there = None if paddle.is_compiled_with_cuda() or args.dry_run else memory.available()
    if there is not None and parts["total"] > there:
        logger.warning(f"the machine has {there:.2f} GiB left: the run may be ended without a word")
    return parts["total"]


def train(make_trainer, args, last_checkpoint):
    """Train and save the model; (the trainer, the numbers for all_results.json). make_trainer: () → GLMTrainer."""
    trainer = make_trainer()
    try:
        result = trainer.train(resume_from_checkpoint=last_checkpoint)
    except OutOfMemory as error:
        if not (args.auto_batch and error.is_whole and args.per_device_train_batch_size % 2 == 0):
            raise
        result, reason = None, str(error)
    if result is None:
        last_checkpoint = trainer.save_now() or last_checkpoint
        halve_micro_batch(args, reason)
        trainer.arguments.update(
            per_device_train_batch_size=args.per_device_train_batch_size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
        )
        trainer = make_trainer()
        result = trainer.train(resume_from_checkpoint=last_checkpoint)
    trainer.save_result()
    trainer.save_state()
    return trainer, {
        "train_loss": result.training_loss,
        "train_runtime": result.metrics["train_runtime"],
        "train_tokens_per_second": round(trainer.meter.mean(), 1),
    }


def halve_micro_batch(args, reason):
    """Halve the micro-batch and double the accumulation: the same examples in every step. reason: for the log."""
    args.per_device_train_batch_size //= 2
    args.gradient_accumulation_steps *= 2
    logger.warning(
        f"{reason}; going on with --per_device_train_batch_size {args.per_device_train_batch_size} "
        f"--gradient_accumulation_steps {args.gradient_accumulation_steps}, which makes the same steps"
    )


def evaluate(trainer):
    """Evaluate, write predictions.jsonl; the numbers for all_results.json."""
    scores = trainer.scores or trainer.evaluate()
    if trainer.answers and trainer.args.should_save:
        inference.write_answers(trainer.answers, Path(trainer.args.output_dir) / "predictions.jsonl")
    renamed = {}
    for name, value in scores.items():
        bare = name.removeprefix("eval_")
        renamed[bare if bare in metrics.ALL_SCORES else name] = value
    for name in ("eval_loss", "eval_perplexity", *metrics.ALL_SCORES):
        if name in renamed:
            logger.info(f"{name}: {renamed[name]:.4f}")
    return renamed
