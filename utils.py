"""GLMTrainer: paddlenlp's Trainer with GLM's loss, schedule, evaluation by generation, and model files."""

import dataclasses
import json
import math
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.trainer import PrinterCallback, ProgressCallback, Trainer, TrainerState
from paddlenlp.trainer.trainer import TRAINER_STATE_NAME
from paddlenlp.trainer.trainer_utils import SchedulerType, TrainOutput, speed_metrics
from paddlenlp.transformers.model_utils import unwrap_model
from paddlenlp.utils.log import logger

import data
import display
import evaluation
import memory
import metrics
import saving
from batching import TrainingBatches
from callbacks import AverageGradients
from dropout import Noise
from errors import Interrupted
from memory import OutOfMemory
from model_weights import host_arrays, size_of, write_arrays
from optimization import AdamW, GlobalNormClip, linear_factor
from parallel import Ranks, gather_objects
from saving import SaveError, Saver, checkpoints
from step_guard import StepGuard
from stopping import StopSignals
from strides import without_views
from training_state import (
    SCHEDULE,
    optimizer_file,
    optimizer_tensors,
    read_optimizer_state,
    read_progress,
    write_progress,
)


class GLMTrainer(Trainer):
    """Trains on lists of data.Encoded; evaluates by loss and by what is generated.

    tokenizer: tokenization.Tokenizer. generation: GenerationConfig of evaluation, None without it. files: saves and
    loads what is trained of the model, checkpoint.WholeModel or adapters.Adapter. score_numbers: see metrics.score().
    arguments: what the run was started with, for the manifests of its checkpoints. estimate: of its memory, GiB.
    """

    def __init__(self, *, tokenizer, generation, files, score_numbers=False, arguments=None, estimate=None, **kwargs):
        super().__init__(tokenizer=tokenizer, data_collator=self.collate, **kwargs)
        self.pop_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        self.ranks = unwrap_model(self.model).ranks
        if self.ranks.size > 1 and self.sharding is None and self.args.dataset_world_size > 1:
            self.add_callback(AverageGradients(self.args.data_parallel_ranks))
        self.files = files
        self.score_numbers = score_numbers
        self.generation = generation
        self.meter = Meter()
        self.answers = []
        self.scores = None
        self.micro_batch = None, 0  # optimizer step, number in it
        self.arguments, self.estimated_memory = arguments, estimate
        self.world, world = Ranks.of_world(), self.args.world_size
        self.saver = Saver(
            self.args.output_dir,
            limit=self.args.save_total_limit,
            background=self.args.async_save,
            size=world,
            rank=self.args.process_index,
            gather=gather_objects if world > 1 else None,
        )
        self.signals, self.stopped_by = StopSignals(), None
        self.resumed, self.step_loss, self.previous_best = None, None, (None, None)
        # On a GPU, reading what it computed makes the host wait for it.
        self.reads_at_once = paddle.get_device() == "cpu"
        interval = 1 if self.reads_at_once else self.args.logging_steps
        self.guard = StepGuard(self.args.max_bad_steps, interval, self.bad_records, logger.warning, self.last_good)

    def collate(self, rows):
        """A batch of data.Encoded as arrays for the model."""
        return data.collate(rows, self.tokenizer.sop_id)

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
        super().log(logs, **kwargs)

    def _get_train_sampler(self):
        rows, args = self.train_dataset, self.args
        lengths = data.lengths_of(rows)[:, :2]
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
        """AdamW as paddlenlp sets it up, with no decay for biases and norms; with a clip that remembers the norm."""
        args = self.args
        if self.optimizer is None:
            decaying = {
                parameter.name
                for name, parameter in self.model.named_parameters()
                if "bias" not in name and "norm" not in name
            }
            self.optimizer = AdamW(
                self.lr_scheduler if lr_scheduler is None else lr_scheduler,
                beta1=args.adam_beta1,
                beta2=args.adam_beta2,
                epsilon=args.adam_epsilon,
                parameters=self.model.parameters(),
                weight_decay=args.weight_decay,
                apply_decay_param_fun=decaying.__contains__,
                grad_clip=GlobalNormClip(args.max_grad_norm if args.max_grad_norm > 0 else math.inf, self.ranks),
                multi_precision=args.fp16_opt_level == "O2",
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps):
        """Linear warm-up, then linear decay to lr_decay_ratio * learning_rate; paddlenlp's for other types."""
        if self.args.lr_scheduler_type != SchedulerType.LINEAR:
            return super().create_scheduler(num_training_steps)
        warmup = self.args.warmup_steps or math.ceil(self.args.warmup_ratio * num_training_steps)
        ratio = self.args.lr_decay_ratio
        self.lr_scheduler = paddle.optimizer.lr.LambdaDecay(
            self.args.learning_rate, lambda step: linear_factor(step, warmup, num_training_steps, ratio)
        )
        return self.lr_scheduler

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
            loss = evaluation.mean_loss(model, rows, self.collate, batch_size, share)
        scores = {}
        if not self.args.prediction_loss_only:
            progress = not self.args.disable_tqdm and self.is_world_process_zero() and sys.stderr.isatty()
            self.answers = evaluation.answers(model, rows, self.generation, self.tokenizer, batch_size, share, progress)
            for line in display.samples(self.answers) if self.is_world_process_zero() else ():
                logger.info(line)
            predictions, targets = zip(*((row.prediction, row.target) for row in self.answers), strict=True)
            scores = metrics.score(predictions, targets, numbers=self.score_numbers)
        model.train()
        results = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **scores}
        results = {f"{metric_key_prefix}_{name}": value for name, value in results.items()}
        results.update(speed_metrics(metric_key_prefix, start, num_samples=len(rows)))
        self.scores = dict(results)
        self.log(results)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, results)
        return results

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

    def save_result(self):
        """Write what was trained into output_dir, whole. Raises SaveError."""
        self.saver.wait()
        args = self.args
        if args.should_save:
            facts = {"step": self.state.global_step, "arguments": self.arguments}
            trained = {str(i): tensor for i, tensor in enumerate(self.model.parameters()) if not tensor.stop_gradient}
            with saving.result(args.output_dir, size_of(trained) * self.ranks.size, facts) as directory:
                self.files.save_whole(directory)
        elif args.should_save_model_state:
            self.files.save_whole(None)

    def _save_checkpoint(self, model, metrics=None):
        """A checkpoint with all that goes on from it; paddlenlp's protocol, the files are our own."""
        self.note_best(metrics)
        write, needed = self.checkpoint_writer()
        keep = [self.state.best_model_checkpoint] if self.state.best_model_checkpoint else []
        with self.surviving_save_errors():
            self.saver.save(self.state.global_step, write, needed, {"arguments": self.arguments}, keep)

    @contextmanager
    def surviving_save_errors(self):
        """Context in which a SaveError is a warning, if args.on_save_error says so."""
        try:
            yield
        except SaveError as error:
            if self.args.on_save_error == "stop":
                raise
            logger.warning(f"{error}; training goes on (--on_save_error continue)")
            if self.state.best_model_checkpoint and not Path(self.state.best_model_checkpoint).is_dir():
                self.state.best_metric, self.state.best_model_checkpoint = self.previous_best

    def note_best(self, metrics):
        """Remember the checkpoint of this step if its evaluation is the best so far."""
        if not metrics:
            return
        value = metrics[f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"]
        best, state = self.state.best_metric, self.state
        if best is None or (value > best if self.args.greater_is_better else value < best):
            self.previous_best = best, state.best_model_checkpoint
            state.best_metric = value
            state.best_model_checkpoint = str(Path(self.args.output_dir) / f"checkpoint-{state.global_step}")

    def checkpoint_writer(self):
        """(what writes this rank's files of a checkpoint into a directory, how many bytes they have). What it writes is
        that of now, even if it is called later."""
        args, weights, moments = self.args, {}, {}
        if args.should_save_model_state:
            weights = self.files.tensors()
            moments = {} if args.ignore_save_lr_and_optim else optimizer_tensors(self.optimizer)
            if args.async_save:
                weights, moments = host_arrays(weights), host_arrays(moments)
        state = json.dumps(dataclasses.asdict(self.state), indent=2, default=float)
        progress, arguments = self.progress(), dict(self.arguments)

        def write(directory):
            if weights:
                self.files.save(directory, weights)
            if moments:
                write_arrays(moments, directory / optimizer_file(self.ranks))
            if args.should_save:
                (directory / TRAINER_STATE_NAME).write_text(state + "\n", encoding="utf8")
                write_progress(directory, progress, arguments)

        return write, size_of(weights) + size_of(moments)

    def progress(self):
        """Where the run stands, besides what paddlenlp's TrainerState says."""
        return {
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.scaler.state_dict() if self.do_grad_scaling else None,
            "total_loss": self._total_loss_scalar,
            "loss_since_log": float(self.running_loss),
            "last_logged_step": self._globalstep_last_logged,
            "ended": self.control.should_training_stop and not self.stopped_by,
        }

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        if resume_from_checkpoint:
            self.files.load(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if not checkpoint or self.args.ignore_load_lr_and_optim:
            return
        parameters = {name: value for name, value in self.model.named_parameters() if not value.stop_gradient}
        state = read_optimizer_state(checkpoint, self.files.parameter_names, parameters, self.ranks)
        self.resumed = read_progress(checkpoint)
        self.optimizer.set_state_dict({**state, SCHEDULE: self.resumed["lr_scheduler"]})
        if self.do_grad_scaling and self.resumed["scaler"]:
            self.scaler.load_state_dict(self.resumed["scaler"])

    def _load_rng_state(self, checkpoint):
        """Nothing: no step draws from a generator that outlives it, see noise()."""

    def go_on(self):
        """Take up the sums of the run that is resumed; called when paddlenlp has reset them, before the first step.

        Returns the loss since the last log entry.
        """
        progress, self.resumed = self.resumed, None
        self._total_loss_scalar = progress["total_loss"]
        self._globalstep_last_logged = progress["last_logged_step"]
        return progress["loss_since_log"]

    def train(self, resume_from_checkpoint=None, ignore_keys_for_eval=None):
        """Train, and go back to the best checkpoint where load_best_model_at_end asks for it.

        Raises SaveError, Interrupted when a signal has stopped the run and its checkpoint is saved, and RunError.
        """
        # The parent would look for the best model in a file that is not written.
        load_best, self.args.load_best_model_at_end = self.args.load_best_model_at_end, False
        # A checkpoint finds the optimizer's state by names that count up over the life of a process.
        with paddle.utils.unique_name.guard(), self.signals:
            if resume_from_checkpoint and self.is_finished(resume_from_checkpoint):
                result = self.take_over(resume_from_checkpoint)
            else:
                result = self.train_on(resume_from_checkpoint)
        self.args.load_best_model_at_end = load_best
        if self.stopped_by:
            self.saver.wait()
            raise Interrupted(self.stopped_by, self.how_to_go_on())
        if load_best and self.state.best_model_checkpoint:
            self.saver.wait()
            self.files.load(self.state.best_model_checkpoint)
            self.scores = None
        return result

    def train_on(self, resume_from_checkpoint):
        """The parent's train(). What was begun to be saved is saved, whatever ends it."""
        try:
            return super().train(resume_from_checkpoint)
        except MemoryError:
            raise OutOfMemory(self.out_of_memory(None), is_whole=False) from None
        finally:
            self.saver.join()

    def is_finished(self, checkpoint):
        """Whether there is nothing left to train after a checkpoint. (The parent would make one step more.)"""
        state, args = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME)), self.args
        steps = args.max_steps
        if steps <= 0:
            steps = int(self._get_train_sampler().steps * args.num_train_epochs)
        stopped_early = read_progress(checkpoint)["ended"] and args.early_stopping_patience
        return state.global_step >= steps or bool(stopped_early and state.max_steps == steps)

    def take_over(self, checkpoint):
        """What train() would have returned when it had saved its last checkpoint."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        self.state.is_world_process_zero = self.is_world_process_zero()
        logger.info(f"{checkpoint} is that of the last step: nothing is left to train")
        progress = read_progress(checkpoint)
        loss = (progress["total_loss"] + progress["loss_since_log"]) / self.state.global_step
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(self.state.global_step, loss, {"train_runtime": 0.0})

    def save_now(self):
        """Save a checkpoint of the last step that is finished; its directory, None before the first one."""
        if not self.state.global_step:
            return None
        directory = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.saver.wait()
        if not directory.is_dir():
            self._save_checkpoint(self.model)
            self.saver.wait()
        return str(directory)

    def how_to_go_on(self):
        """What a stopped run leaves, in words."""
        step = self.state.global_step
        where = Path(self.args.output_dir) / f"checkpoint-{step}"
        return f"stopped after step {step}, saved as {where}; the same command goes on from there"

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
        super()._maybe_log_save_evaluate(tr_loss, model, epoch, ignore_keys_for_eval, **kwargs)
        clip.last_norm = None

    def asked_to_stop(self):
        """Number of the signal that any rank has got, 0 without one; publishes what all ranks have written.

        Ranks look at each other after every step on CPU, and on GPUs, where looking means waiting, when they log.
        """
        ready = self.saver.is_ready
        if self.args.world_size == 1:
            if ready and self.saver.is_busy:
                with self.surviving_save_errors():
                    self.saver.wait()
            return self.signals.received or 0
        if not (self.reads_at_once or self.control.should_log):
            return 0
        of_ranks = self.world.gathered(paddle.to_tensor([self.signals.received or 0, int(ready)]))
        number, (_, all_ready) = int(of_ranks[:, 0].max()), of_ranks.min(axis=0).tolist()
        if self.saver.is_busy and all_ready:
            with self.surviving_save_errors():
                self.saver.wait()
        return number

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

    def last_good(self, step):
        """The checkpoint to go back to, made at or before a step, in words."""
        self.saver.wait()
        found = [path for path in checkpoints(self.args.output_dir) if int(path.name.rpartition("-")[2]) <= step]
        return f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint from before them"


class Meter:
    """Counts tokens and the time they took. Counts stay tensors until read: reading one waits for the device."""

    def __init__(self):
        self.total = self.since_lap = 0
        self.lap_start = self.start = None

    def add(self, count):
        """Count tokens; the clock starts with the first call."""
        if self.start is None:
            self.start = self.lap_start = time.time()
        self.since_lap = self.since_lap + count

    def lap(self):
        """Tokens per second since the last lap."""
        count, now = int(self.since_lap), time.time()
        speed = count / max(now - (now if self.lap_start is None else self.lap_start), 1e-9)
        self.total, self.since_lap, self.lap_start = self.total + count, 0, now
        return speed

    def mean(self):
        """Tokens per second since the first call, 0 if there was none."""
        if self.start is None:
            return 0.0
        return (self.total + int(self.since_lap)) / max(time.time() - self.start, 1e-9)


def finite(number):
    """The number, None if it is not finite: JSON has no such."""
    return number if math.isfinite(number) else None


def peak_memory_gib():
    """Most memory used so far, in GiB: of the GPU where there is one, else of the process."""
    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        return paddle.device.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
