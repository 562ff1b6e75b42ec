"""ResumableTrainer: paddlenlp's Trainer that saves whole checkpoints, stops in good order and goes on bit for bit."""

import dataclasses
import json
import os
from contextlib import contextmanager
from pathlib import Path

import paddle
from paddlenlp.trainer import Trainer, TrainerState
from paddlenlp.trainer.trainer import TRAINER_STATE_NAME
from paddlenlp.trainer.trainer_utils import TrainOutput
from paddlenlp.transformers.model_utils import unwrap_model
from paddlenlp.utils.log import logger

from glm.errors import Interrupted
from glm.ops import device
from glm.parallel.ranks import Ranks, gather_objects
from glm.stopping import StopSignals
from glm.training import continuation, saving
from glm.training.memory import OutOfMemory
from glm.training.saving import SaveError, Saver, checkpoints, step_of
from glm.training.training_state import (
    SCHEDULE,
    optimizer_file,
    optimizer_tensors,
    read_optimizer_state,
    read_progress,
    write_progress,
)
from glm.weights.stored_weights import host_arrays, size_of, write_arrays


class ResumableTrainer(Trainer):
    """A Trainer that saves all it needs to go on, obeys signals when a step is finished, and resumes.

    A subclass keeps running_loss, the loss since the last log entry, and adds go_on() to it where `resumed` is set.

    files: saves and loads what is trained of the model, checkpoint.WholeModel or adapters.Adapter. arguments: what the
    run was started with, shape: what makes it what it is (see continuation), both for the manifests of its checkpoints.
    estimate: of its memory, GiB.
    """

    def __init__(self, *, files, arguments=None, shape=None, estimate=None, **kwargs):
        super().__init__(**kwargs)
        if self.args.skip_profile_timer:
            # The parent would go on with those of an earlier run of this process.
            self.timers = None
        self.ranks = unwrap_model(self.model).ranks
        self.files, self.arguments, self.estimated_memory = files, arguments or {}, estimate
        self.shape = shape or {}
        self.began_at = None
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
        self.resumed, self.previous_best, self.scores = None, (None, None), None
        # On a GPU, reading what it computed makes the host wait for it.
        self.reads_at_once = not device.takes_gpu_branches()

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
        facts = {"arguments": self.arguments, "shape": self.shape, "began_at": self.began_at}
        with self.surviving_save_errors():
            self.saver.save(self.state.global_step, write, needed, facts, keep)

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
            state.best_model_checkpoint = str(self.saver.directory_of(state.global_step))

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
        asked = self.args.resume_from_checkpoint
        self.began_at = os.path.abspath(asked) if asked else saving.began_at(resume_from_checkpoint)
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
        """Whether there is nothing left to train after a checkpoint. (The parent would make one step more.) Raises
        UsageError for a run that is to be shorter than the checkpoint's."""
        state, args, steps = read_state(checkpoint), self.args, self.total_steps()
        continuation.check_length(checkpoint, state, steps, bool(args.resume_from_checkpoint))
        stopped_early = read_progress(checkpoint)["ended"] and args.early_stopping_patience
        return state.global_step >= steps or bool(stopped_early and state.max_steps == steps)

    def total_steps(self):
        """Optimizer steps of the whole run."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return int(self._get_train_sampler().steps * self.args.num_train_epochs)

    def take_over(self, checkpoint):
        """What train() would have returned when it had saved its last checkpoint."""
        self._load_from_checkpoint(checkpoint)
        self.state = read_state(checkpoint)
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
        directory = self.saver.directory_of(self.state.global_step)
        self.saver.wait()
        if not directory.is_dir():
            self._save_checkpoint(self.model)
            self.saver.wait()
        return str(directory)

    def how_to_go_on(self):
        """What a stopped run leaves, in words."""
        step = self.state.global_step
        return (
            f"stopped after step {step}, saved as {self.saver.directory_of(step)}; the same command goes on from there"
        )

    def asked_to_stop(self):
        """Number of the signal that any rank has got, 0 without one; publishes what all ranks have written.

        Ranks look at each other after every step on CPU, and on GPUs, where looking means waiting, when they log.
        """
        number, ready = self.signals.received or 0, self.saver.is_ready
        if self.args.world_size > 1:
            if not (self.reads_at_once or self.control.should_log):
                return 0
            of_ranks = self.world.gathered(paddle.to_tensor([number, int(ready)]))
            number, ready = int(of_ranks[:, 0].max()), bool(of_ranks[:, 1].min())
        if self.saver.is_busy and ready:
            with self.surviving_save_errors():
                self.saver.wait()
        return number

    def last_good(self, step):
        """The checkpoint to go back to, made at or before a step, in words."""
        self.saver.wait()
        found = [path for path in checkpoints(self.args.output_dir) if step_of(path) <= step]
        return f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint from before them"


def read_state(checkpoint):
    """A checkpoint's TrainerState."""
    return TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
