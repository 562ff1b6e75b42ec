"""What the flags of training need to have an effect; arguments.py lists these in its dataclasses. Imports no paddle."""

import importlib.util
import sys

from glm.command_line import UsageError
from glm.inference.arguments import BEAMS, DRAWS, TOP_P
from glm.needs import Need


def trains(flags):
    """Whether a run trains, or rehearses it."""
    return flags.do_train or flags.dry_run


def evaluates(flags):
    """Whether a run evaluates. --do_eval False says no to what the others ask for."""
    asked = flags.do_eval or flags.eval_steps or flags.evaluation_strategy not in (None, "no")
    return bool(asked) and flags.do_eval is not False


def evaluates_in_training(flags):
    """Whether a run evaluates before its end."""
    return trains(flags) and evaluates(flags) and flags.evaluation_strategy != "no"


def generates(flags):
    """Whether evaluation writes texts."""
    return evaluates(flags) and not flags.prediction_loss_only


def half(flags):
    """Whether a run asks for half precision."""
    return flags.fp16 or flags.bf16


def dtype_of_weights(flags):
    """The dtype of the weights that are trained: with O2 that of half precision."""
    if flags.fp16_opt_level != "O2" or not half(flags):
        return "float32"
    return "bfloat16" if flags.bf16 else "float16"


def reports_to_wandb(flags):
    """Whether logs go to Weights & Biases."""
    return set(flags.report_to or ()) & {"wandb", "all"}


# What logs may go to → the package that it takes.
REPORTERS = {"wandb": "wandb", "tensorboard": "tensorboardX", "visualdl": "visualdl"}
DECODING = "min_tgt_length length_penalty no_repeat_ngram_size num_beams select_topk top_k top_p temperature engine"
IN_TRAINING = (
    "max_train_samples train_on_history lora_dropout lora_plus_scale overwrite_output_dir resume_from_checkpoint "
    "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps group_by_length packing "
    "label_smoothing neftune_alpha dataloader_drop_last dataloader_num_workers learning_rate lr_scheduler_type "
    "warmup_ratio warmup_steps lr_decay_ratio num_cycles lr_end power weight_decay max_grad_norm optim adam_beta1 "
    "adam_beta2 adam_epsilon save_strategy save_steps save_total_limit async_save on_save_error max_bad_steps "
    "auto_batch ignore_save_lr_and_optim ignore_load_lr_and_optim recompute amp_master_grad scale_loss "
    "logging_strategy logging_steps logging_first_step eval_steps evaluation_strategy minimum_eval_times "
    "early_stopping_patience load_best_model_at_end metric_for_best_model greater_is_better skip_profile_timer "
    "skip_memory_metrics"
)
ADAM = "adam_beta1 adam_beta2 adam_epsilon"
LORA = "r lora_alpha lora_dropout lora_target_modules rslora lora_plus_scale"
SHARDING = "sharding_parallel_degree sharding_parallel_config hybrid_parallel_topo_order"

MODEL_NEEDS = (
    Need(
        "dtype", lambda flags: not trains(flags), beside="--do_train, which goes by --fp16, --bf16 and --fp16_opt_level"
    ),
)
LORA_NEEDS = (Need(LORA, lambda flags: flags.lora or flags.lora_path, missing="--lora True", neutral=(False,)),)
DECODING_NEEDS = (BEAMS, DRAWS, TOP_P)
NEEDS = (
    Need(IN_TRAINING, trains, missing="--do_train", of_part=True),
    Need(
        "eval_steps evaluation_strategy",
        lambda flags: flags.do_eval is not False,
        beside="--do_eval False",
        neutral=("no",),
    ),
    Need(
        f"{DECODING} per_device_eval_batch_size prediction_loss_only max_eval_samples dev_ratio",
        evaluates,
        missing="--do_eval",
        of_part=True,
    ),
    Need(DECODING, generates, beside="--prediction_loss_only, which generates nothing", of_part=True),
    Need(
        "minimum_eval_times early_stopping_patience load_best_model_at_end metric_for_best_model greater_is_better",
        evaluates_in_training,
        missing="evaluations in training: --do_eval, and no --evaluation_strategy no",
        of_part=True,
    ),
    Need(
        "eval_steps minimum_eval_times",
        lambda flags: flags.evaluation_strategy in (None, "steps"),
        missing="--evaluation_strategy steps",
    ),
    Need("num_train_epochs", lambda flags: flags.max_steps <= 0, beside="--max_steps, which counts instead"),
    Need("warmup_ratio", lambda flags: not flags.warmup_steps, beside="--warmup_steps, which counts instead"),
    Need(
        "warmup_ratio warmup_steps",
        lambda flags: flags.lr_scheduler_type != "constant",
        beside="--lr_scheduler_type constant; constant_with_warmup has one",
    ),
    Need("lr_decay_ratio", lambda flags: flags.lr_scheduler_type == "linear", missing="--lr_scheduler_type linear"),
    Need("num_cycles", lambda flags: flags.lr_scheduler_type == "cosine", missing="--lr_scheduler_type cosine"),
    Need(
        "lr_end power", lambda flags: flags.lr_scheduler_type == "polynomial", missing="--lr_scheduler_type polynomial"
    ),
    Need(ADAM, lambda flags: flags.optim != "adafactor", beside="--optim adafactor, which has no such moments"),
    Need("save_steps", lambda flags: flags.save_strategy == "steps", missing="--save_strategy steps"),
    Need("save_total_limit async_save", lambda flags: flags.save_strategy != "no", beside="--save_strategy no"),
    Need("logging_steps", lambda flags: flags.logging_strategy == "steps", missing="--logging_strategy steps"),
    Need(
        "ignore_load_lr_and_optim",
        lambda flags: not flags.overwrite_output_dir or flags.resume_from_checkpoint,
        beside="--overwrite_output_dir, which goes on from nothing",
    ),
    Need("amp_custom_black_list amp_custom_white_list", half, missing="--fp16 or --bf16"),
    Need("fp16_opt_level amp_master_grad", half, missing="--fp16 or --bf16"),
    Need("scale_loss", lambda flags: flags.fp16, missing="--fp16"),
    Need(SHARDING, lambda flags: flags.sharding, missing="--sharding"),
    Need("logging_dir", lambda flags: flags.report_to != ["none"], beside="--report_to none"),
    Need("run_name wandb_api_key", reports_to_wandb, missing="--report_to wandb"),
)


def check_values(args):
    """Raise UsageError for what contradicts itself."""
    if args.fp16 and args.bf16:
        raise UsageError("--fp16 and --bf16 are two kinds of half precision; give one of them")
    if args.lr_scheduler_type == "polynomial" and args.lr_end >= args.learning_rate:
        raise UsageError(f"--lr_end {args.lr_end} must be below --learning_rate, {args.learning_rate}")
    for name, package in REPORTERS.items():
        if name in (args.report_to or ()) and importlib.util.find_spec(package) is None:
            raise UsageError(f"--report_to {name} needs a package: run {sys.executable} -m pip install {package}")
    if args.sharding and args.optim == "adafactor":
        raise UsageError("--optim adafactor is not for --sharding, which divides AdamW's state; leave one out")


def check_best_model_is_saved(args):
    """Raise UsageError unless there is a checkpoint of each evaluation that --load_best_model_at_end looks at."""
    if not args.load_best_model_at_end:
        return
    if args.save_strategy != args.evaluation_strategy:
        raise UsageError(
            f"--load_best_model_at_end goes back to a checkpoint that was evaluated: give --save_strategy "
            f"{args.evaluation_strategy}, as --evaluation_strategy is, and not {args.save_strategy}"
        )
    if args.save_strategy == "steps" and args.save_steps % args.eval_steps:
        raise UsageError(
            f"--load_best_model_at_end needs an evaluation of each checkpoint: --save_steps {args.save_steps} must "
            f"be a multiple of --eval_steps {args.eval_steps}"
        )
