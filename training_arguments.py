"""paddlenlp's TrainingArguments with what this project adds and mends. Importing it imports paddle."""

import os
import sys
from dataclasses import dataclass, field

import paddle
from paddlenlp.trainer import TrainingArguments
from paddlenlp.trainer.trainer_utils import IntervalStrategy
from paddlenlp.utils.log import logger

from arguments import UsageError, choice
from metrics import SCORES

LOSSES = ("loss", "perplexity")


def set_up_logging():
    """Log to stdout, without the dump of every argument (args.json has them): stderr is for errors and progress."""
    logger.handler.stream = sys.stdout
    logger.set_level("INFO")


@dataclass
class GLMTrainingArguments(TrainingArguments):
    """Training: paddlenlp's TrainingArguments, and the objective's and the schedule's own."""

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
    dry_run: bool = choice(
        False, "Read and check the data, show lengths, one example and the memory needed; train nothing."
    )
    evaluation_strategy: IntervalStrategy = field(
        default="no",
        metadata={"help": "no, steps or epoch. Default: steps where --eval_steps is given or --do_eval is set."},
    )

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if not 0 <= self.lr_decay_ratio <= 1:
            raise UsageError(f"--lr_decay_ratio is {self.lr_decay_ratio}; it must be between 0 and 1")
        if self.neftune_alpha < 0:
            raise UsageError(f"--neftune_alpha is {self.neftune_alpha}; it must be at least 0")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise UsageError(f"--early_stopping_patience is {self.early_stopping_patience}; it must be at least 1")
        self.refuse_what_is_not_here()
        self.check_best_metric()
        # Left open, paddlenlp takes the same and announces that this will change.
        self.report_to = self.report_to or "visualdl"
        if not paddle.is_compiled_with_cuda():
            self.use_float32_on_cpu()
        if self.evaluation_strategy == "no" and self.eval_steps:
            self.evaluation_strategy = "steps"
        if os.path.isfile(self.output_dir):
            raise UsageError(f"--output_dir {self.output_dir} is a file; give a directory")
        try:
            super().__post_init__()
        except (ValueError, AssertionError) as error:
            raise UsageError(f"training arguments: {error}") from None
        if self.early_stopping_patience and self.evaluation_strategy == IntervalStrategy.NO:
            raise UsageError("--early_stopping_patience needs evaluations: give --do_eval or --eval_steps")

    def refuse_what_is_not_here(self):
        """Raise UsageError for flags of paddlenlp's that other scripts stand for, or that nothing here acts on."""
        if self.do_predict:
            raise UsageError("--do_predict: predict_generation.py predicts; --do_eval writes predictions.jsonl too")
        if self.do_export:
            raise UsageError("--do_export: export_generation_model.py exports")
        for name in ("tensor_parallel_degree", "pipeline_parallel_degree", "sep_parallel_degree"):
            if getattr(self, name) > 1:
                raise UsageError(f"--{name} {getattr(self, name)}: this version runs the whole model in every process")
        if self.sharding:
            raise UsageError("--sharding: this version keeps the whole optimizer in every process; leave it out")

    def check_best_metric(self):
        """Complete what the best model is judged by: the loss by default; of LOSSES, less is better.

        Raises UsageError unless it is what evaluation gives.
        """
        # paddlenlp does so with load_best_model_at_end alone; stopping early and deleting checkpoints look at it too.
        self.metric_for_best_model = self.metric_for_best_model or "loss"
        best = self.metric_for_best_model.removeprefix("eval_")
        known = LOSSES if self.prediction_loss_only else (*LOSSES, *SCORES)
        if best not in known:
            raise UsageError(f"--metric_for_best_model is {best}; it must be one of {', '.join(known)}")
        if self.greater_is_better is None:
            self.greater_is_better = best not in LOSSES

    def use_float32_on_cpu(self):
        """Turn half precision off where it cannot run, and say so once."""
        asked = [name for name in ("fp16", "bf16", "fp16_full_eval", "bf16_full_eval") if getattr(self, name)]
        if asked:
            logger.warning(f"--{asked[0]} needs a GPU; on CPU everything is computed in float32")
        for name in asked:
            setattr(self, name, False)
        if self.fp16_opt_level != "O1":
            self.fp16_opt_level = "O1"
        self.device = "cpu"
