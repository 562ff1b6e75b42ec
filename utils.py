"""GLMTrainer: paddlenlp's Trainer with GLM's loss, schedule, evaluation by generation, and model files."""

import math
import resource
import time
from pathlib import Path

import paddle
from paddlenlp.trainer import Trainer
from paddlenlp.trainer.trainer_utils import SchedulerType, speed_metrics
from paddlenlp.transformers.model_utils import unwrap_model

import data
import evaluation
import metrics
from batching import TrainingBatches
from callbacks import AverageGradients
from dropout import Noise
from optimization import GlobalNormClip, linear_factor, state_at_another_degree, state_files
from strides import without_views


class GLMTrainer(Trainer):
    """Trains on lists of data.Encoded; evaluates by loss and by what is generated.

    tokenizer: tokenization.Tokenizer. generation: GenerationConfig of evaluation, None without it. files: saves and
    loads what is trained of the model, checkpoint.WholeModel or adapters.Adapter. score_numbers: see metrics.score().
    """

    def __init__(self, *, tokenizer, generation, files, score_numbers=False, **kwargs):
        super().__init__(tokenizer=tokenizer, data_collator=self.collate, **kwargs)
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
        with without_views(), self.autocast_smart_context_manager():
            loss = model(**inputs, label_smoothing=self.args.label_smoothing, divisor=divisor, noise=self.noise())
            (self.scaler.scale(loss) if self.do_grad_scaling else loss).backward()
        return loss.detach()

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
            clip = getattr(self.optimizer, "_grad_clip", None)
            if getattr(clip, "last_norm", None) is not None:
                logs["grad_norm"] = round(float(clip.last_norm), 6)
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
        """paddlenlp's optimizer, with a clip that remembers the norm."""
        optimizer = super().create_optimizer(lr_scheduler)
        if self.args.max_grad_norm > 0:
            optimizer._grad_clip = GlobalNormClip(self.args.max_grad_norm, self.ranks)
        return optimizer

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
            progress = not self.args.disable_tqdm and self.is_world_process_zero()
            self.answers = evaluation.answers(model, rows, self.generation, self.tokenizer, batch_size, share, progress)
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

    def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
        self.files.save(output_dir)

    def save_result(self):
        """Write what was trained into output_dir, whole."""
        if self.args.should_save_model_state:
            self.files.save_whole(self.args.output_dir)

    def _save_checkpoint(self, model, metrics=None):
        super()._save_checkpoint(model, metrics)
        # The parent keeps to save_total_limit on rank 0 of several only; a single process has no rank.
        if self.args.local_rank == -1:
            self._rotate_checkpoints(output_dir=self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        if resume_from_checkpoint:
            self.files.load(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint):
        files = state_files(checkpoint) if checkpoint else []
        if not files or (self.ranks.size == 1 and len(files) == 1):
            return super()._load_optimizer_and_scheduler(checkpoint)
        # Every rank reads its own: the parent would have one read it and send it to the others.
        if len(files) == self.ranks.size:
            state = paddle.load(str(files[self.ranks.rank]))
        else:
            names = self.files.parameter_names(len(files))
            parameters = {name: value for name, value in self.model.named_parameters() if not value.stop_gradient}
            state = state_at_another_degree(files, names, parameters, self.ranks)
        self.optimizer.set_state_dict(state)
        self.lr_scheduler.set_state_dict(paddle.load(str(Path(checkpoint) / "scheduler.pdparams")))
        if self.do_grad_scaling and (Path(checkpoint) / "scaler.pdparams").is_file():
            self.scaler.load_state_dict(paddle.load(str(Path(checkpoint) / "scaler.pdparams"), return_numpy=True))
        return None

    def train(self, resume_from_checkpoint=None, ignore_keys_for_eval=None):
        """Train, and go back to the best checkpoint where load_best_model_at_end asks for it."""
        # The parent would look for the best model in a file that _save() does not write.
        load_best, self.args.load_best_model_at_end = self.args.load_best_model_at_end, False
        # A checkpoint finds the optimizer's state by names that count up over the life of a process.
        with paddle.utils.unique_name.guard():
            result = super().train(resume_from_checkpoint, ignore_keys_for_eval)
        self.args.load_best_model_at_end = load_best
        if load_best and self.state.best_model_checkpoint:
            self.files.load(self.state.best_model_checkpoint)
            self.scores = None
        return result


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


def peak_memory_gib():
    """Most memory used so far, in GiB: of the GPU where there is one, else of the process."""
    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        return paddle.device.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
