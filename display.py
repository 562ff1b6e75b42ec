"""What a run shows while it goes on: what it is about to do, how far it is, and samples of what the model writes."""

import sys
import time

from paddlenlp.trainer import TrainerCallback
from paddlenlp.utils.log import logger

from arguments import plain

# Lines of paddlenlp's Trainer that the plan and the progress say better, or that say nothing.
NOISE = (
    "***** Running training",
    "  Num ",
    "  Instantaneous batch",
    "  Total ",
    "  Gradient Accumulation",
    "Starting training from resume",
    "[timelog]",
    "\nTraining completed",
    "The global seed is set",
    "max_steps is given",
)
SAMPLES = 3
# Of a source, so many characters at its end are shown: a prompt asks there.
SHOWN_SOURCE = 60


def without_noise(record):
    """Whether a log record is shown: a filter for logging."""
    return not str(record.msg).startswith(NOISE)


class Progress(TrainerCallback):
    """On a terminal a bar with loss, learning rate, tokens a second and the time left; elsewhere, and with
    disable_tqdm, a plain line for each log entry. The first rank's alone."""

    def __init__(self):
        self.bar, self.start, self.first = None, None, 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Say what the plan is."""
        if not state.is_world_process_zero:
            return
        self.start, self.first = time.monotonic(), state.global_step
        for line in plan(args, state):
            logger.info(line)
        if not args.disable_tqdm and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", desc="training")

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the entry: in the bar, or as a line; a line for an evaluation in any case."""
        if not state.is_world_process_zero:
            return
        logs = logs or {}
        if "eval_loss" in logs:
            logger.info(f"step {state.global_step}: {evaluated(logs)}")
        elif "loss" in logs and self.bar is not None:
            self.bar.set_postfix_str(", ".join(training_figures(logs)))
        elif "loss" in logs:
            done, total = state.global_step, state.max_steps
            left = (time.monotonic() - self.start) / max(1, done - self.first) * (total - done)
            logger.info(", ".join([f"step {done}/{total}", *training_figures(logs), f"{clock(left)} left"]))

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def plan(args, state):
    """What a run is about to do, as lines."""
    ranks = args.dataset_world_size
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * ranks
    made = f"{args.per_device_train_batch_size} rows"
    made += f" x {args.gradient_accumulation_steps} accumulated" if args.gradient_accumulation_steps > 1 else ""
    made += f" x {ranks} ranks" if ranks > 1 else ""
    steps = f"{state.max_steps} steps in {state.num_train_epochs} epochs" + (
        f", {state.global_step} of them done" if state.global_step else ""
    )
    saved = {"steps": f"every {args.save_steps} steps", "epoch": "every epoch", "no": "at the end only"}
    evaluated_at = {"steps": f"every {args.eval_steps} steps", "epoch": "every epoch", "no": "never"}
    return [
        f"plan: {steps}, {rows} examples a step ({made})",
        f"plan: learning rate {args.learning_rate:g}, {plain(args.lr_scheduler_type)}; "
        f"saved {saved[plain(args.save_strategy)]}, evaluated {evaluated_at[plain(args.evaluation_strategy)]}",
        f"plan: output in {args.output_dir}",
    ]


def training_figures(logs):
    """The figures of a training log entry that say how it goes, as texts."""
    figures = ["loss not finite" if logs["loss"] is None else f"loss {logs['loss']:.4f}"]
    for name, text in (("learning_rate", "lr {:.2e}"), ("tokens_per_second", "{:,.0f} tokens/s")):
        if logs.get(name) is not None:
            figures.append(text.format(logs[name]))
    return figures


def evaluated(logs):
    """The results of an evaluation, in a line."""
    names = [name for name in logs if name.startswith("eval_") and not name.endswith(("runtime", "per_second"))]
    return ", ".join(f"{name} {logs[name]:.4f}" for name in names)


def clock(seconds):
    """Seconds as h:mm:ss."""
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def samples(answers):
    """Lines that show the first answers beside what was to be written."""
    lines = []
    for answer in answers[:SAMPLES]:
        source = answer.source.replace("\n", " ")
        shown = f"…{source[-SHOWN_SOURCE:]}" if len(source) > SHOWN_SOURCE else source
        lines.append(f"sample of {shown}")
        lines.append(f"    target      {answer.target}")
        lines.append(f"    prediction  {answer.prediction}")
    return lines
