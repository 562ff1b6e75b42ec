"""What a run shows while it goes on: what it is about to do, how far it is, and samples of what the model writes."""

import shlex
import sys
import time
from pathlib import Path

from paddlenlp.trainer import TrainerCallback
from paddlenlp.utils.log import logger

from glm.command_line import plain
from glm.errors import printable_lines
from glm.texts import said, translated

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
    # What it says of resuming: it advises a flag that would train twice on the same rows.
    "  Continuing training from",
    "  Will skip the first",
)
SAMPLES = 3
# Of a source, so many characters are shown: those at its beginning, where a prompt has the answer, and at its end,
# where it asks.
SHOWN_HEAD, SHOWN_TAIL = 40, 30
# Log entries of a run, and steps between two of them at most.
ENTRIES, LONGEST_INTERVAL = 50, 100


def without_noise(record):
    """Whether a log record is shown: a filter for logging."""
    return not str(record.msg).startswith(NOISE)


def made_printable(record):
    """Have a log record be in the reader's language, and no terminal obey what data and models say in it: a filter for
    logging."""
    record.msg, record.args = printable_lines(translated(record.getMessage())), None
    return True


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

            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", desc=said("training"))

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar; have the last step logged."""
        if state.global_step >= state.max_steps:
            control.should_log = True
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


def logging_interval(steps):
    """Steps between two log entries of a run of so many, where none are asked for."""
    return min(max(1, steps // ENTRIES), LONGEST_INTERVAL)


def samples(answers):
    """Lines that show some answers beside what was to be written."""
    lines = []
    for answer in chosen(answers):
        lines.append(f"sample of {shortened(answer.source)}")
        lines.append(f"    target      {answer.target}")
        lines.append(f"    prediction  {answer.prediction}")
    return lines


def chosen(answers):
    """SAMPLES of the answers, from all parts of a file, no two to the same prompt or with the same target; always the
    same ones."""
    found, seen = [], set()
    for row in sorted(range(len(answers)), key=scattered):
        answer = answers[row]
        if len(found) < SAMPLES and not seen & {answer.source, answer.target}:
            found.append(row)
            seen |= {answer.source, answer.target}
    return [answers[row] for row in sorted(found)]


def scattered(number):
    """A key that sorts neighbours apart: the multiples of the golden ratio, modulo 1, fill an interval evenly."""
    return number * 0.6180339887498949 % 1


def shortened(source):
    """A source in one line, without its middle if it is long."""
    source = source.replace("\n", " ")
    if len(source) <= SHOWN_HEAD + SHOWN_TAIL:
        return source
    return f"{source[:SHOWN_HEAD]} … {source[-SHOWN_TAIL:]}"


def closing(output_dir, arguments, files):
    """The last lines of a run: where its results are, and what to do next.

    arguments: {flag: value} of the run. files: names of those that it has written.
    """
    model = {"lora_path": output_dir} if arguments.get("lora") else {}
    model = {"model_name_or_path": arguments["model_name_or_path"] if model else output_dir, **model}
    kind = "LoRA adapter" if "lora_path" in model else "model"
    named = {"predictions.jsonl": "predictions", "loss.png": "curves", "all_results.json": "scores"}
    lines = [f"{kind}: {output_dir}"] if arguments["do_train"] else []
    lines += [f"{what}: {Path(output_dir) / name}" for name, what in named.items() if name in files]
    if arguments["do_train"]:
        program = shlex.quote(f"{output_dir}-exported/glm")
        given = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in model.items())
        lines += [
            f"predict: python predict_generation.py {given} --data_file FILE --output_file predictions.jsonl",
            f"export: python export_generation_model.py {given} --output_path {program}",
            f"serve: python serve_generation.py {given}",
        ]
    return lines
