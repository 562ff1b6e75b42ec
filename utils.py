"""A fine-tuning run from arguments to results: what finetune_*.py have in common. Importing it imports paddle."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import paddle.distributed as dist
from paddlenlp.trainer import set_seed
from paddlenlp.utils.log import logger

import data
from glm import json_text, metrics
from glm.command_line import UsageError, effective_config
from glm.data import examples
from glm.errors import UserError, end_without_destructors
from glm.export import engines
from glm.files import locks, places
from glm.files.guarded import by_product, product, write_text
from glm.inference import answer_lines
from glm.inference.arguments import to_generation_config
from glm.model import losses
from glm.model.lora import add_lora
from glm.ops import device
from glm.parallel.ranks import Ranks, gather_objects
from glm.training import conditions, continuation, memory, optimization
from glm.training.callbacks import EarlyStopping, MetricsFile, draw_metrics
from glm.training.display import Progress, closing
from glm.training.memory import OutOfMemory
from glm.training.trainer import GLMTrainer
from glm.training.training_state import ARGUMENTS_FILE
from glm.weights import adapters, model_directory


def finetune(model_args, data_args, lora_args, args, locate, template):
    """Train, evaluate and write every output of a run.

    The arguments are those of glm.training.arguments. locate(need_train, need_dev) gives the splits' files, see
    data.py.
    template: name in templates.TEMPLATES.
    """
    places.check_directory(args.output_dir, "--output_dir")
    if args.world_size > 1:
        end_without_destructors()
    generates = args.do_eval and not args.prediction_loss_only
    generation = to_generation_config(data_args, args.seed) if generates else None
    if args.dry_run:
        return dry_run(model_args, data_args, lora_args, args, locate, template)
    selections = data.select(data_args, args, locate(args.do_train, args.do_eval), template)
    with ExitStack() as held:
        # All ranks get to know if somebody else is there.
        lock = locks.held(Path(args.output_dir) / ".lock", f"--output_dir {args.output_dir}")
        answer_of_first_rank(lambda: held.enter_context(lock))
        return run(model_args, data_args, lora_args, args, selections, generation, template)


def run(model_args, data_args, lora_args, args, selections, generation, template):
    """finetune(), once output_dir is this run's alone. selections: of data.select(). generation: GenerationConfig of
    evaluation, or None."""
    last_checkpoint, doomed = answer_of_first_rank(lambda: continuation.begin(args))
    set_seed(args.seed)
    directory = model_directory.resolve(model_args.model_name_or_path)
    tokenizer = prepared(model_directory.load_tokenizer(directory, lora_args.lora_path), data_args)
    train_rows, eval_rows = data.load_splits(data_args, args, selections, tokenizer)
    numbers = template == "instruction" and data.has_numbers(eval_rows or [])
    if args.metric_for_best_model.endswith("number_match") and not numbers:
        raise UsageError("--metric_for_best_model number_match needs instructions whose answers have numbers in them")
    model, files = load_model(model_args, lora_args, args, directory, tokenizer)
    data.check_lengths(model.config, (train_rows, eval_rows), data_args.tgt_length)
    say_what_computes(directory, args)
    estimate = print_memory(model, args, train_rows)
    if args.do_eval:
        for line in metrics.definition(numbers).splitlines():
            logger.info(line)

    arguments = effective_config(model_args, data_args, lora_args, args)
    shape = (
        settle(last_checkpoint, doomed, arguments, (directory, lora_args, args), train_rows) if args.do_train else {}
    )

    def make_trainer():
        patience = args.early_stopping_patience
        return GLMTrainer(
            model=model,
            args=args,
            tokenizer=tokenizer,
            generation=generation,
            files=files,
            score_numbers=numbers,
            engine=model_args.engine,
            candidates=data_args.extract_candidates if getattr(data_args, "chosen_tasks", ()) else None,
            arguments=arguments,
            shape=shape,
            estimate=estimate,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            callbacks=[Progress(), MetricsFile(), *([EarlyStopping(patience)] if patience else [])],
        )

    if args.should_save:
        with by_product(ARGUMENTS_FILE, logger.warning):
            write_text(Path(args.output_dir) / ARGUMENTS_FILE, json_text.pretty(arguments))
    trainer, results = train(make_trainer, args, last_checkpoint) if args.do_train else (make_trainer(), {})
    if args.do_eval:
        results.update(evaluate(trainer))
    if args.should_save:
        path = Path(args.output_dir) / "all_results.json"
        with product(path, "the model is saved; --do_eval alone evaluates it again"):
            write_text(path, json_text.pretty(results))
        if args.do_train:
            # Once more, for the last evaluation is in it now.
            draw_metrics(args.output_dir)
        for line in closing(args.output_dir, arguments, os.listdir(args.output_dir)):
            logger.info(line)
    return results


def say_what_computes(directory, args):
    """Log the model's directory and what computes it."""
    processes = f"{args.world_size} processes, " if args.world_size > 1 else ""
    threads = os.environ.get("OMP_NUM_THREADS")
    logger.info(f"model: {directory}; {processes}{device.name()}, {threads} threads each")


def settle(last_checkpoint, doomed, arguments, started, rows):
    """The shape of a run, which is compared with that of the checkpoint that it goes on from, if any; then what has to
    go of older ones does. started: (the model's directory, LoraArguments, the training arguments)."""
    directory, lora_args, args = started
    of_each = args.per_device_train_batch_size * args.gradient_accumulation_steps
    examples_a_step = of_each * args.data_parallel_ranks.size

    def compared():
        shape = continuation.shape_of_run(
            arguments,
            rows=rows,
            examples_a_step=examples_a_step,
            base=directory,
            adapter=lora_args.lora_path,
            adapter_config=lora_config(lora_args) if lora_args.lora else None,
        )
        if last_checkpoint:
            continuation.check_same_run(last_checkpoint, shape, bool(args.resume_from_checkpoint))
        continuation.remove(doomed)
        return shape

    shape = answer_of_first_rank(compared)
    if last_checkpoint:
        logger.info(f"resuming from {last_checkpoint}; --overwrite_output_dir would start anew")
    return shape


def prepared(tokenizer, data_args):
    """A Tokenizer whose model's prompts are made as the flags ask, and otherwise as they were."""
    tokenizer.preparation = tokenizer.preparation.changed(data_args.prompt, data_args.normalize)
    return tokenizer


def load_model(model_args, lora_args, args, directory, tokenizer):
    """(model, what saves and loads the part of it that is trained): all of it, or a LoRA adapter."""
    ranks, dtype = args.tensor_parallel_ranks, conditions.dtype_of_weights(args)
    # What cannot be is told before anything is trained.
    engines.choice_of(model_args.engine, dtype, ranks.size if ranks else 1)
    if not args.do_train:
        dtype = model_directory.dtype_to_compute_in(model_args.dtype, directory)
    if not lora_args.lora:
        model = model_directory.load_model(directory, dtype, ranks=ranks)
        return model, (model_directory.WholeModel if ranks.size == 1 else model_directory.ShardedModel)(
            model, tokenizer
        )
    config, fingerprint = lora_config(lora_args), {}
    model = model_directory.load_model(directory, dtype, fingerprint, ranks)
    add_lora(model, config, args.seed, lora_args.lora_plus_scale)
    adapter = adapters.Adapter(model, config, model_args.model_name_or_path, fingerprint, tokenizer.preparation)
    if lora_args.lora_path:
        adapter.load(lora_args.lora_path)
    return model, adapter


def lora_config(lora_args):
    """The LoraConfig of a run: what was asked for, and for the rest what the adapter to go on from has."""
    return lora_args.config(adapters.read_config(lora_args.lora_path)[0] if lora_args.lora_path else None)


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


def dry_run(model_args, data_args, lora_args, args, locate, template):
    """Read, check and encode the data, show them and the memory that a run needs; {} as results.

    What cannot be downloaded is done without: rows of the greatest lengths are then assumed.
    """
    config, tokenizer = model_directory.preview(model_args.model_name_or_path)
    train_rows, eval_rows, selections = None, None, {}
    try:
        selections = data.select(data_args, args, locate(args.do_train, args.do_eval), template)
    except data.DownloadError as error:
        logger.warning(f"{error}; no data are read")
    if tokenizer is None:
        logger.warning(f"{model_args.model_name_or_path}: its tokenizer could not be downloaded; no data are read")
    else:
        if lora_args.lora_path:
            tokenizer.preparation = model_directory.load_tokenizer(tokenizer.directory, lora_args.lora_path).preparation
        train_rows, eval_rows = data.load_splits(data_args, args, selections, prepared(tokenizer, data_args))
        data.check_lengths(config, (train_rows, eval_rows), data_args.tgt_length)
    model = model_directory.empty_model(config, Ranks.imagined(args.asked_degree))
    if lora_args.lora:
        add_lora(model, lora_config(lora_args))
    assumed = [(data_args.src_length, data_args.tgt_length)] * args.per_device_train_batch_size
    print_memory(model, args, train_rows, assumed, half=args.asked_for_half)
    logger.info("dry run: nothing is trained")
    return {}


def print_memory(model, args, train_rows, assumed=None, half=None):
    """Say how large a model is, and what training it takes; that in GiB, None without rows.

    model: may have no weights yet. train_rows: examples.Encoded; without them, rows of the lengths `assumed`, if any.
    half: whether weights are float16 or bfloat16; default: as in this run.
    """
    sizes = [int(np.prod(parameter.shape)) for parameter in model.parameters()]
    shapes = [parameter.shape for parameter in model.parameters() if not parameter.stop_gradient]
    trained = sum(int(np.prod(shape)) for shape in shapes)
    of_rank = f" of each of {model.ranks.size} ranks" if model.ranks.size > 1 else ""
    logger.info(f"parameters{of_rank}: {sum(sizes):,}, of which trained: {trained:,}")
    lengths = examples.lengths_of(train_rows)[:, :2] if train_rows else assumed
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
        kept=optimization.numbers_kept(args.optim, shapes),
        half=half,
        recompute=args.recompute,
        chunk=losses.CHUNK,
        degree=model.ranks.size,
        on_gpu=half or device.takes_gpu_branches(),
    )
    figures = ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
    kind = "half precision" if half else "float32"
    logger.info(f"estimated memory of training on each device in {kind}, GiB: {figures}")
    there = None if device.is_built_for_gpus() or args.dry_run else memory.available()
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
    with by_product("trainer_state.json", logger.warning):
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
        path = Path(trainer.args.output_dir) / "predictions.jsonl"
        with product(path, "the model is saved; --do_eval alone evaluates it again"):
            answer_lines.write_lines(map(answer_lines.evaluation_line, trainer.answers), path)
    renamed = {}
    for name, value in scores.items():
        bare = name.removeprefix("eval_")
        renamed[bare if bare in (*metrics.ALL_SCORES, *metrics.TASK_SCORES) else name] = value
    return renamed
