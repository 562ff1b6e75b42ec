"""GLMTrainer: paddlenlp's Trainer with GLM's loss, batches, schedule, and evaluation by generation."""

import math
import sys
import time

import numpy as np
import paddle
from paddlenlp.trainer import PrinterCallback, ProgressCallback
from paddlenlp.trainer.trainer_utils import SchedulerType, speed_metrics
from paddlenlp.transformers.model_utils import unwrap_model
from paddlenlp.utils.log import logger

from glm import metrics, stacks
from glm.command_line import UsageError
from glm.data import examples
from glm.model.dropout import Noise
from glm.ops.strides import without_views
from glm.training import display, evaluation, memory, task_scores
from glm.training.batching import TrainingBatches
from glm.training.byproducts import ByProduct
from glm.training.callbacks import AverageGradients
from glm.training.memory import OutOfMemory
from glm.training.meter import Meter, peak_memory_gib
from glm.training.optimization import linear_factor, optimizer_of
from glm.training.resumable import ResumableTrainer
from glm.training.step_guard import StepGuard


class GLMTrainer(ResumableTrainer):
    """Trains on lists of examples.Encoded; evaluates by loss and by what is generated.

    tokenizer: tokenization.Tokenizer. generation: GenerationConfig of evaluation, None without it. score_numbers: see
    metrics.score(). engine: what decodes then, see evaluation.engine_of(). candidates: texts that are looked for in
    each passage, where rows are of several tasks; None where they are of one. The others as for ResumableTrainer.
    """

    def __init__(self, *, tokenizer, generation, score_numbers=False, engine="auto", candidates=None, **kwargs):
        super().__init__(tokenizer=tokenizer, data_collator=self.collate, **kwargs)
        self.pop_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        if self.ranks.size > 1 and self.sharding is None and self.args.dataset_world_size > 1:
            self.add_callback(AverageGradients(self.args.data_parallel_ranks))
        self.guard_by_products()
        self.score_numbers = score_numbers
        self.generation, self.engine, self.candidates = generation, engine, candidates
        self.meter = Meter()
        self.answers = []
        self.micro_batch = None, 0  # optimizer step, number in it
        self.step_loss = None
        if self.args.logging_steps is None:
            self.args.logging_steps = display.logging_interval(self.total_steps() if self.train_dataset else 0)
        if self.args.minimum_eval_times and self.train_dataset:
            # paddlenlp's own way makes it ten at least, which may be more than it was.
            most, self.args.minimum_eval_times = self.total_steps() // self.args.minimum_eval_times, None
            self.args.eval_steps = max(1, min(self.args.eval_steps, most))
        interval = 1 if self.reads_at_once else self.args.logging_steps
        self.guard = StepGuard(self.args.max_bad_steps, interval, self.bad_records, logger.warning, self.last_good)

    def guard_by_products(self):
        """Have what reports to elsewhere, paddlenlp's integrations, neither end nor hold up the run."""
        handler = self.callback_handler
        handler.callbacks = [
            ByProduct(callback, logger.warning) if type(callback).__module__.endswith(".integrations") else callback
            for callback in handler.callbacks
        ]

    def collate(self, rows):
        """A batch of examples.Encoded as arrays for the model."""
        return examples.collate(rows, self.tokenizer.sop_id)

    def training_step(self, model, inputs):
        """One forward and backward pass over a micro-batch: its share of the optimizer step's loss, on one rank.

        All micro-batches of the step, on all ranks, add up to the mean over all its target tokens.
        """
        self.scores = None
        self.meter.add(inputs["lengths"].sum())
        model.train()
        inputs = self._prepare_inputs(inputs)
        batches = self.callback_handler.train_dataloader.batch_sampler
        # Ranks average their gradients.
        divisor = batches.target_tokens(self.state.global_step) / self.args.dataset_world_size
        try:
            loss = self.forward_and_backward(model, inputs, divisor)
        except MemoryError:
            loss = None
        if loss is None:
            # Not in the block above: while an exception is handled, it holds what its frames hold.
            self.optimizer.clear_grad()
            raise OutOfMemory(self.out_of_memory(inputs), is_whole=True)
        counted = self.guard.loss(loss)
        self.step_loss = counted if self.step_loss is None else self.step_loss + counted
        return counted if self.resumed is None else counted + self.go_on()

    def forward_and_backward(self, model, inputs, divisor):
        """Add a micro-batch's gradients to those of the step; its loss."""
        with without_views(), self.autocast_smart_context_manager():
            loss = model(**inputs, label_smoothing=self.args.label_smoothing, divisor=divisor, noise=self.noise())
            # A loss that is not finite makes its gradients so: all ranks leave the step out then.
            finite = paddle.isfinite(loss.detach())
            loss = loss * paddle.where(finite, paddle.ones_like(loss), paddle.full_like(loss, math.nan))
            (self.scaler.scale(loss) if self.do_grad_scaling else loss).backward()
        return loss.detach()

    def out_of_memory(self, inputs):
        """What to tell of a micro-batch (None if it is over) that memory did not suffice for."""
        lengths = inputs["lengths"] if inputs else np.zeros([0, 2])
        return memory.advice(self.state.global_step + 1, len(lengths), int(lengths.sum()), self.estimated_memory)

    def noise(self):
        """The random draws of the next micro-batch, which depend on the seed and on where the run stands alone."""
        step = self.state.global_step
        self.micro_batch = step, self.micro_batch[1] + 1 if self.micro_batch[0] == step else 0
        key = self.args.seed, *self.micro_batch, self.args.dataset_rank
        return Noise(*key, neftune_alpha=self.args.neftune_alpha)

    def log(self, logs, **kwargs):
        """Log, with speed, gradient norm and memory beside a training loss."""
        if "loss" in logs:
            logs["tokens_per_second"] = round(self.meter.lap(), 1)
            logs["memory_gib"] = round(peak_memory_gib(), 3)
            norm = self.optimizer._grad_clip.last_norm
            logs["loss"] = finite(self.guard.mean_of_good(logs["loss"], self.steps_since_log))
            if norm is not None:
                logs["grad_norm"] = finite(round(float(norm), 6))
        history = self.state.log_history
        super().log(logs, **kwargs)
        if not stacks.current().keeps_log:
            self.state.log_history = [*history, {**logs, "step": self.state.global_step}]

    def _get_train_sampler(self):
        rows, args = self.train_dataset, self.args
        lengths = examples.lengths_of(rows)[:, :2]
        totals = lengths.sum(axis=1)
        return TrainingBatches(
            rows,
            totals,
            lengths[:, 1],
            args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            seed=args.seed,
            group=args.group_by_length,
            capacity=int(totals.max()) if args.packing else None,
            num_replicas=args.dataset_world_size,
            rank=args.dataset_rank,
            drop_last=args.dataloader_drop_last,
        )

    def create_optimizer(self, lr_scheduler=None):
        """What --optim names, with no decay for biases and norms; with a clip that remembers the norm."""
        if self.optimizer is None:
            rate = self.lr_scheduler if lr_scheduler is None else lr_scheduler
            self.optimizer = optimizer_of(self.model, self.args, rate, self.ranks)
        return self.optimizer

    def create_scheduler(self, num_training_steps):
        """Linear warm-up, then linear decay to lr_decay_ratio * learning_rate; paddlenlp's for other types."""
        if self.args.lr_scheduler_type != SchedulerType.LINEAR:
            return self.create_other_scheduler(num_training_steps)
        warmup = self.args.warmup_steps or math.ceil(self.args.warmup_ratio * num_training_steps)
        ratio = self.args.lr_decay_ratio
        self.lr_scheduler = paddle.optimizer.lr.LambdaDecay(
            self.args.learning_rate, lambda step: linear_factor(step, warmup, num_training_steps, ratio)
        )
        return self.lr_scheduler

    def create_other_scheduler(self, num_training_steps):
        """paddlenlp's, of which the polynomial one divides by the steps after the warm-up. Raises UsageError."""
        warmup = self.args.warmup_steps or int(self.args.warmup_ratio * num_training_steps)
        if self.args.lr_scheduler_type == SchedulerType.POLYNOMIAL and warmup >= num_training_steps:
            raise UsageError(
                f"--lr_scheduler_type polynomial falls after the warm-up, and that takes {warmup} of the run's "
                f"{num_training_steps} steps: give a smaller --warmup_steps or --warmup_ratio"
            )
        return super().create_scheduler(num_training_steps)

    def share(self):
        """This rank's share of rows to evaluate."""
        size = self.args.dataset_world_size
        return evaluation.Share(size, self.args.dataset_rank, self.args.world_size // size)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Loss, perplexity and scores of generated texts on eval_dataset, as "eval_…"; args.prediction_loss_only leaves
        the texts out.

        self.answers keeps the texts, and self.scores the results until the weights change.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        start = time.time()
        model = unwrap_model(self.model)
        model.eval()
        share, batch_size = self.share(), self.args.per_device_eval_batch_size
        with self.autocast_smart_context_manager():
            losses = task_scores.mean_losses(model, rows, self.collate, batch_size, share)
        scores = {} if self.args.prediction_loss_only else self.generated_scores(model, rows, share)
        model.train()
        results = {**losses, "perplexity": math.exp(min(losses["loss"], 700.0)), **scores}
        results = {f"{metric_key_prefix}_{name}": value for name, value in results.items()}
        results.update(speed_metrics(metric_key_prefix, start, num_samples=len(rows)))
        self.scores = dict(results)
        self.log(results)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, results)
        return results

    def generated_scores(self, model, rows, share):
        """Scores by name of the texts that a model generates for rows; self.answers keeps these."""
        progress = not self.args.disable_tqdm and self.is_world_process_zero() and sys.stderr.isatty()
        engine = evaluation.engine_of(self.engine, model, self.tokenizer, trains=self.train_dataset is not None)

        def decode(rows, config, binding=None):
            settings = self.tokenizer, self.args.per_device_eval_batch_size, share, progress, binding
            return evaluation.answers(engine, rows, config, *settings)

        if self.candidates is not None:
            evaluator = task_scores.Evaluator(decode, self.generation, self.tokenizer, self.candidates)
            self.answers, scores = evaluator.scores(rows)
        else:
            self.answers = decode(rows, self.generation)
            predictions, targets = zip(*((row.prediction, row.target) for row in self.answers), strict=True)
            scores = metrics.score(predictions, targets, numbers=self.score_numbers)
        for line in display.samples(self.answers) if self.is_world_process_zero() else ():
            logger.info(line)
        return scores

    def _wrap_model(self, model, training=True):
        if self.ranks.size == 1 or self.sharding is not None:
            return super()._wrap_model(model, training)
        # The parent would wrap it for fleet's parallel layers. Ours exchange what they have to by themselves, and
        # AverageGradients does the rest.
        degree, self.args.tensor_parallel_degree = self.args.tensor_parallel_degree, -1
        try:
            return super()._wrap_model(model, training)
        finally:
            self.args.tensor_parallel_degree = degree

    def _maybe_log_save_evaluate(self, tr_loss, model, epoch, ignore_keys_for_eval, **kwargs):
        """What there is to do after an optimizer step; called at the end of an epoch, too."""
        clip, step = self.optimizer._grad_clip, self.state.global_step
        if self.step_loss is not None:
            tr_loss.subtract_(self.guard.step(step - 1, clip.last_norm, self.step_loss).reshape(tr_loss.shape))
            self.step_loss = None
            if number := self.asked_to_stop():
                self.stopped_by = number
                self.control.should_save = self.control.should_training_stop = True
        self.running_loss = tr_loss
        self.steps_since_log = step - self._globalstep_last_logged
        # The last step is logged in any case, and is over when its epoch is.
        self.control.should_log = self.control.should_log and self.steps_since_log > 0
        super()._maybe_log_save_evaluate(tr_loss, model, epoch, ignore_keys_for_eval, **kwargs)
        clip.last_norm = None

    def bad_records(self, step, finite):
        """The records of an optimizer step, in words: those of micro-batches whose loss was not finite, or of all where
        every loss was. finite: of this rank's micro-batches."""
        ranks = self.args.dataset_world_size
        of_ranks = self.share().of_ranks(finite)
        batches = self.callback_handler.train_dataloader.batch_sampler
        shares = batches.plan()[step % batches.steps]
        bad = [share for i, share in enumerate(shares) if not of_ranks[i % ranks][i // ranks]] or shares
        rows = sorted({int(row) for share in bad for row in share})
        return ", ".join(self.train_dataset[row].example.place for row in rows)


def finite(number):
    """The number, None if it is not finite: JSON has no such."""
    return number if math.isfinite(number) else None
