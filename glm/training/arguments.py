"""The flags of training: model, data, LoRA, and paddlenlp's TrainingArguments with what this project adds and mends.

Importing this imports paddle.
"""

import logging
import os
import sys
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import ClassVar

import paddle
from paddlenlp.trainer import TrainingArguments
from paddlenlp.utils.log import logger

from glm.command_line import UsageError, choice
from glm.errors import say_no_more
from glm.flag_names import SYNONYMS
from glm.inference.arguments import DTYPE_HELP, DTYPES, ENGINES
from glm.metrics import ALL_SCORES
from glm.model.lora import ALL, TARGETS, LoraConfig
from glm.ops import device
from glm.parallel.ranks import Ranks, groups_without_connections
from glm.training.conditions import (
    LORA_NEEDS,
    MODEL_NEEDS,
    NEEDS,
    check_best_model_is_saved,
    check_values,
    evaluates,
)
from glm.training.display import made_printable, without_noise

LOSSES = ("loss", "perplexity")
EVAL_STEPS = 500
# Flags of paddlenlp's that are refused with a reason of their own.
TOLD_APART = ("do_predict", "do_export", "no_cuda", "pipeline_parallel_degree", "sep_parallel_degree")
INTERVALS = ("no", "steps", "epoch")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial")


def set_up_logging():
    """Log to stdout, without the dump of every argument (args.json has them): stderr is for errors and progress."""
    logger.handler.stream = sys.stdout
    logger.set_level("INFO")
    if not sys.stdout.isatty():
        logger.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.handler.addFilter(without_noise)
    logger.handler.addFilter(made_printable)
    logger.handler.handleError = survive_a_closed_pipe


def survive_a_closed_pipe(record):
    """What to do where a log record cannot be written: a run goes on although nobody reads what it says (`| head`)."""
    if isinstance(sys.exc_info()[1], BrokenPipeError):
        say_no_more(logger.handler.stream)
    else:
        logging.StreamHandler.handleError(logger.handler, record)


@dataclass
class ModelArguments:
    """The model to start from."""

    NEEDS: ClassVar = MODEL_NEEDS

    model_name_or_path: str = choice("THUDM/glm-large-chinese", "Directory or name of the model.")
    dtype: str = choice("auto", DTYPE_HELP, choices=DTYPES)
    engine: str = choice(
        "auto",
        "What generates the texts of an evaluation: python, the model's own layers; onnx, its ONNX graph by "
        "onnxruntime, which gives the same texts faster, in float32 on CPU, and takes the model's memory again. auto: "
        "onnx where that can be and nothing is trained.",
        choices=ENGINES,
    )


@dataclass
class LoraArguments:
    """Training a LoRA adapter instead of all weights."""

    NEEDS: ClassVar = LORA_NEEDS

    lora: bool = choice(False, "Train a LoRA adapter and leave the model as it is; output_dir then holds the adapter.")
    lora_path: str = choice(None, "Adapter directory to go on from, or to evaluate; means --lora True.")
    # paddle.distributed.launch takes --r for one of its own flags, wherever it stands.
    r: int = choice(None, "Rank. Default: 8, or the adapter's.", alias="lora_rank")
    lora_alpha: float = choice(None, "The update is multiplied by lora_alpha / r. Default: 2 * r, or the adapter's.")
    lora_dropout: float = choice(None, "Dropout of the update's input in training. Default: 0, or the adapter's.")
    lora_target_modules: list[str] = choice(
        None,
        f"Linear layers with an update: {ALL}, or some of {', '.join(TARGETS)}. Default: query_key_value, or the "
        "adapter's.",
    )
    rslora: bool = choice(None, "Multiply by lora_alpha / sqrt(r) instead. Default: False, or the adapter's.")
    lora_plus_scale: float = choice(1.0, "Learning rate of the factor B over that of A (LoRA+); 16 is usual.")

    def __post_init__(self):
        self.lora = self.lora or self.lora_path is not None
        self.config()

    def config(self, stored=None):
        """The LoraConfig asked for; what is left open is taken from `stored`, that of an adapter to go on from."""
        stored = stored or LoraConfig(r := self.r or 8, alpha=2.0 * r)
        asked = {
            "r": self.r,
            "alpha": self.lora_alpha,
            "dropout": self.lora_dropout,
            "target_modules": self.lora_target_modules and tuple(self.lora_target_modules),
            "rslora": self.rslora,
        }
        return replace(stored, **{name: value for name, value in asked.items() if value is not None})


@dataclass
class GLMTrainingArguments(TrainingArguments):
    """Training: paddlenlp's TrainingArguments, and the objective's and the schedule's own."""

    NEEDS: ClassVar = NEEDS
    GROUPS: ClassVar[dict] = {
        "Run: what to do, where to, and from where": (
            "output_dir overwrite_output_dir do_train do_eval resume_from_checkpoint dry_run seed"
        ),
        "Training: steps, batches, objective": (
            "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps group_by_length "
            "packing label_smoothing neftune_alpha dataloader_drop_last dataloader_num_workers"
        ),
        "Optimizer and schedule": (
            "learning_rate lr_scheduler_type warmup_ratio warmup_steps lr_decay_ratio num_cycles lr_end power "
            "weight_decay max_grad_norm optim adam_beta1 adam_beta2 adam_epsilon"
        ),
        "Evaluation in training, and the best checkpoint": (
            "evaluation_strategy eval_steps minimum_eval_times per_device_eval_batch_size prediction_loss_only "
            "metric_for_best_model greater_is_better load_best_model_at_end early_stopping_patience"
        ),
        "Checkpoints, and what may go wrong": (
            "save_strategy save_steps save_total_limit async_save on_save_error max_bad_steps auto_batch "
            "ignore_save_lr_and_optim ignore_load_lr_and_optim"
        ),
        "Speed and memory": (
            "recompute device fp16 bf16 fp16_opt_level amp_master_grad "
            "amp_custom_black_list amp_custom_white_list scale_loss"
        ),
        "Several processes": (
            "tensor_parallel_degree sharding sharding_parallel_degree sharding_parallel_config "
            "hybrid_parallel_topo_order"
        ),
        "Log": (
            "logging_strategy logging_steps logging_first_step logging_dir report_to run_name wandb_api_key "
            "disable_tqdm skip_memory_metrics skip_profile_timer"
        ),
    }

    label_smoothing: float = choice(0.1, "Weight of the uniform distribution in the training target.")
    lr_decay_ratio: float = choice(
        0.1, "The linear schedule ends at this fraction of learning_rate; other schedules do not use it."
    )
    group_by_length: bool = choice(True, "Put rows of similar length into a batch, so that its ranks have equal work.")
    packing: bool = choice(
        False, "Fill each row with several examples, up to the longest one's length; they do not see each other."
    )
    neftune_alpha: float = choice(
        0.0, "Noise added to embeddings in training (NEFTune); 5 to 15 is usual, 0 adds none."
    )
    early_stopping_patience: int = choice(
        None, "Stop after so many evaluations without a better --metric_for_best_model."
    )
    logging_steps: int = choice(
        None, "Log loss and learning rate every so many steps. Default: fifty times in a run, every 100 steps at least."
    )
    logging_first_step: bool = choice(True, "Log the first step, too; the last one always is.")
    eval_steps: int = choice(None, "Evaluate every so many steps. Default: 500, where evaluation goes by steps.")
    async_save: bool = choice(
        False, "Write checkpoints beside the training; takes memory for a copy of weights and optimizer state."
    )
    on_save_error: str = choice(
        "stop", "A checkpoint that cannot be saved, of a full disk say: stop, or go on.", choices=("stop", "continue")
    )
    max_bad_steps: int = choice(
        5, "A step whose loss or gradient is not finite is left out; after so many in a row, stop."
    )
    auto_batch: bool = choice(
        False, "If memory runs out, halve per_device_train_batch_size and double gradient_accumulation_steps, once."
    )
    dry_run: bool = choice(
        False, "Read and check the data, show lengths, one example and the memory needed; train nothing."
    )
    do_eval: bool = choice(
        None,
        "Evaluate: during training as --evaluation_strategy says, and at the end. Default: where --eval_steps or "
        "--evaluation_strategy asks for it.",
    )
    evaluation_strategy: str = choice(
        None,
        "When to evaluate in training: no, steps or epoch. Default: steps where --eval_steps is given or --do_eval is "
        "set; with no, --do_eval evaluates at the end alone.",
        choices=INTERVALS,
    )
    save_strategy: str = choice("steps", "When to save checkpoints: no, steps or epoch.", choices=INTERVALS)
    logging_strategy: str = choice("steps", "When to log: no, steps or epoch.", choices=INTERVALS)
    lr_scheduler_type: str = choice("linear", f"Shape of the schedule: {', '.join(SCHEDULES)}.", choices=SCHEDULES)
    optim: str = choice(
        "adamw",
        "The optimizer: adamw or adafactor, which keeps a row and a column of numbers for a matrix, where AdamW keeps "
        "two matrices.",
        choices=("adamw", "adafactor"),
    )
    device: str = choice(
        None, "Where to train: cpu or gpu. Default: gpu where paddle is built for it.", choices=("cpu", "gpu")
    )
    fp16_opt_level: str = choice(
        "O1", "O1 is mixed precision; with O2 parameters are in half precision, too.", choices=("O1", "O2")
    )
    report_to: list[str] = choice(
        None,
        "What logs go to: visualdl, wandb, tensorboard, all or none. Default: visualdl.",
        choices=("visualdl", "wandb", "tensorboard", "all", "none"),
    )

    def __post_init__(self):
        if self.auto_batch and paddle.distributed.get_world_size() > 1:
            raise UsageError("--auto_batch is for one process: others would wait for the one whose memory ran out")
        self.refuse_what_is_not_here()
        self.choose_device()
        self.check_best_metric()
        check_values(self)
        # Left open, paddlenlp takes the same and announces that this will change.
        self.report_to = self.report_to or "visualdl"
        # A dry run plans for the ranks and the machine that are meant, which need not be these.
        self.asked_degree = max(1, self.tensor_parallel_degree)
        self.asked_for_half = self.fp16_opt_level == "O2" and (self.fp16 or self.bf16)
        if self.device == "cpu" and not device.takes_gpu_branches():
            self.use_float32_on_cpu()
        self.do_eval, at_end = evaluates(self), self.evaluation_strategy == "no"
        # paddlenlp takes "no" beside do_eval for "steps", and says what it decides in lines of its own.
        self.evaluation_strategy = (self.evaluation_strategy or "steps") if self.do_eval and not at_end else "no"
        if self.evaluation_strategy == "steps":
            self.eval_steps = self.eval_steps or EVAL_STEPS
        check_best_model_is_saved(self)
        if os.path.isfile(self.output_dir):
            raise UsageError(f"--output_dir {self.output_dir} is a file; give a directory")
        try:
            self.do_eval, asked = self.do_eval and not at_end, self.do_eval
            with nullcontext() if device.is_built_for_gpus() else groups_without_connections():
                super().__post_init__()
        except (ValueError, AssertionError) as error:
            raise UsageError(f"training arguments: {error}") from None
        # As text again, which paddlenlp has made a member of its enumeration.
        self.do_eval, self.optim = asked, self.optim.value

    def refuse_what_is_not_here(self):
        """Raise UsageError for flags of paddlenlp's that other scripts stand for, or that nothing here acts on."""
        if self.do_predict:
            raise UsageError(
                "--do_predict: leave it out, and run predict_generation.py; --do_eval writes predictions.jsonl, too"
            )
        if self.do_export:
            raise UsageError("--do_export: leave it out, and run export_generation_model.py when training is done")
        if self.no_cuda:
            raise UsageError("--no_cuda: here it is called --device cpu")
        self.refuse_what_nothing_acts_on()
        for name in ("pipeline_parallel_degree", "sep_parallel_degree"):
            if getattr(self, name) > 1:
                raise UsageError(
                    f"--{name} {getattr(self, name)}: GLM is divided by --tensor_parallel_degree alone here"
                )
        if self.sharding and not device.is_built_for_gpus():
            raise UsageError(
                "--sharding needs GPUs; on CPU leave it out, and divide the model by --tensor_parallel_degree"
            )
        self.check_ranks()

    def refuse_what_nothing_acts_on(self):
        """Raise UsageError for a flag of paddlenlp's outside of GROUPS that has another value than its default."""
        known = {*" ".join(self.GROUPS.values()).split(), *TOLD_APART}
        for spec in fields(self):
            default = spec.default if spec.default_factory is MISSING else spec.default_factory()
            if spec.init and spec.name not in known and getattr(self, spec.name) != default:
                here = next((f"; here it is called --{name}" for name in SYNONYMS.get(spec.name, ())), "")
                raise UsageError(f"--{spec.name}: nothing here acts on it; leave it out{here}")

    def check_ranks(self):
        """Raise UsageError unless there are as many processes as tensor_parallel_degree asks for, or a multiple."""
        degree, ranks = self.tensor_parallel_degree, paddle.distributed.get_world_size()
        # A dry run plans for ranks that need not be there.
        if degree > 1 and ranks % degree and not self.dry_run:
            launch = f"python -m paddle.distributed.launch --nproc_per_node {degree}"
            launch += "" if device.is_built_for_gpus() else " --backend gloo"
            raise UsageError(
                f"--tensor_parallel_degree {degree} needs {degree} processes, or a multiple, and there are {ranks}: "
                f"start it with {launch} {sys.argv[0]} …"
            )

    @cached_property
    def tensor_parallel_ranks(self):
        """ranks.Ranks among which the model is divided. All ranks ask for it together."""
        return Ranks.of(self.group_of("get_model_parallel_group"))

    @cached_property
    def data_parallel_ranks(self):
        """ranks.Ranks that have the same part of the model and different data. All ranks ask for it together."""
        if not self.use_hybrid_parallel:
            return Ranks.of_world()
        return Ranks.of(self.group_of("get_data_parallel_group"))

    def group_of(self, kind):
        """A communication group of the topology; None where the model is not divided."""
        from paddle.distributed import fleet

        return getattr(fleet.get_hybrid_communicate_group(), kind)() if self.use_hybrid_parallel else None

    def check_best_metric(self):
        """Complete what the best model is judged by: the loss by default; of LOSSES, less is better.

        Raises UsageError unless it is what evaluation gives.
        """
        # paddlenlp does so with load_best_model_at_end alone; stopping early and deleting checkpoints look at it too.
        self.metric_for_best_model = self.metric_for_best_model or "loss"
        best = self.metric_for_best_model.removeprefix("eval_")
        known = LOSSES if self.prediction_loss_only else (*LOSSES, *ALL_SCORES)
        if best not in known:
            raise UsageError(f"--metric_for_best_model is {best}; it must be one of {', '.join(known)}")
        if self.greater_is_better is None:
            self.greater_is_better = best not in LOSSES

    def use_float32_on_cpu(self):
        """Turn half precision off where it cannot run, and say so once."""
        asked = [name for name in ("fp16", "bf16") if getattr(self, name)]
        if asked:
            logger.warning(f"--{asked[0]} needs a GPU; on CPU everything is computed in float32")
        for name in asked:
            setattr(self, name, False)
        if self.fp16_opt_level != "O1":
            self.fp16_opt_level = "O1"

    def choose_device(self):
        """Make device the one to train on. Raises UsageError for one that is not there."""
        if self.device == "gpu" and not device.is_built_for_gpus():
            raise UsageError("--device gpu: this paddle is built for CPU; leave it out, or install paddlepaddle-gpu")
        self.device = self.device or ("gpu" if device.is_built_for_gpus() else "cpu")
        if self.device == "cpu" and device.is_built_for_gpus():
            paddle.set_device("cpu")
