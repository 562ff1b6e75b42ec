"""What happens beside training steps: metrics.jsonl and loss.png, stopping early, averaging over data-parallel
ranks."""

import json
import os
from pathlib import Path

import paddle
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group
from paddlenlp.trainer import TrainerCallback
from paddlenlp.utils.log import logger

from glm.files.guarded import by_product, whole_file, write_text

METRICS_FILE, PLOT_FILE = "metrics.jsonl", "loss.png"
# Scores in the picture; the others would lie beside these.
PLOTTED = ("bleu4", "rougel", "exact_match", "number_match")


class MetricsFile(TrainerCallback):
    """Appends one JSON object per log entry to output_dir/metrics.jsonl; draws output_dir/loss.png at each save. What
    of this fails is a warning."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Drop what an earlier run logged past the step that this one starts from."""
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / METRICS_FILE
        with by_product(METRICS_FILE, logger.warning):
            kept = [entry for entry in read_metrics(path) if entry["step"] <= state.global_step]
            write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append the entry."""
        if not state.is_world_process_zero or not os.path.isdir(args.output_dir):
            return
        with by_product(f"step {state.global_step} of {METRICS_FILE}", logger.warning):
            entry = json.dumps({"step": state.global_step, **logs}, default=float)
            append_line(Path(args.output_dir) / METRICS_FILE, entry)

    def on_save(self, args, state, control, **kwargs):
        """Draw the curves so far."""
        if state.is_world_process_zero:
            draw_metrics(args.output_dir)


def append_line(path, line):
    """Append a line to a file; to a new line, where a full disk has cut the last one off."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())


def draw_metrics(output_dir):
    """Draw what a run has logged, if anything, as output_dir/loss.png; a failure is a warning."""
    with by_product(PLOT_FILE, logger.warning):
        if entries := read_metrics(Path(output_dir) / METRICS_FILE):
            plot(entries, Path(output_dir) / PLOT_FILE)


class AverageGradients(TrainerCallback):
    """Averages gradients over data-parallel ranks before each optimizer step.

    For tensor parallelism beside data parallelism: paddle.DataParallel would average over all ranks.
    """

    def __init__(self, ranks):
        self.ranks = ranks

    def on_optimizer_begin(self, args, state, control, model=None, **kwargs):
        """Average them."""
        trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
        if self.ranks.group is not None:
            fused_allreduce_gradients_with_group(trained, self.ranks.group, scale=1.0 / self.ranks.size)
            return
        for parameter in trained:
            with paddle.no_grad():
                parameter.grad.copy_(self.ranks.summed(parameter.grad) / self.ranks.size, True)


class EarlyStopping(TrainerCallback):
    """Stops training after `patience` evaluations in a row that were no better than the best before them.

    It counts in the log that checkpoints keep, so a resumed run stops where the whole one does.
    """

    def __init__(self, patience):
        self.patience = patience

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Count, and ask to stop."""
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        values = [entry[name] for entry in state.log_history if name in entry]
        best = values.index((max if args.greater_is_better else min)(values)) if values else 0
        if len(values) - 1 - best >= self.patience:
            logger.info(f"no better {name} in {self.patience} evaluations: training stops")
            control.should_training_stop = True


def read_metrics(path):
    """Entries of a metrics.jsonl, those whole lines that there are."""
    if not Path(path).exists():
        return []
    entries = []
    with open(path, "rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # what a run was writing when it was killed, or had no room for
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                entries.append(entry)
    return entries


def plot(entries, path):
    """Draw what a run has logged as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = figure_of(entries)
    try:
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png", dpi=120)
    finally:
        pyplot.close(figure)


def figure_of(entries):
    """What a run has logged, over optimizer steps: training and evaluation loss, scores of evaluation if there are any,
    the learning rate."""
    from matplotlib import pyplot

    scored = [name for name in PLOTTED if any(entry.get(f"eval_{name}") is not None for entry in entries)]
    heights = (3, 2, 1) if scored else (3, 1)
    figure, (top, *middle, bottom) = pyplot.subplots(
        len(heights), 1, sharex=True, figsize=(8, 2 * sum(heights) / 3 + 3), height_ratios=heights, layout="constrained"
    )
    draw(top, entries, {"loss": ("training", "-"), "eval_loss": ("evaluation", "o-")})
    top.set_ylabel("loss per target token (nats)")
    for axes in middle:
        draw(axes, entries, {f"eval_{name}": (name, "o-") for name in scored})
        axes.set(ylabel="score of evaluation", ylim=(-2, 102))
    draw(bottom, entries, {"learning_rate": ("learning rate", "-")}, legend=False)
    bottom.set(ylabel="learning rate", xlabel="optimizer step")
    figure.align_ylabels()
    return figure


def draw(axes, entries, curves, legend=True):
    """Draw curves, {key of an entry: (label, style)}, over steps."""
    for name, (label, style) in curves.items():
        points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.grid(alpha=0.3)
    if legend and axes.lines:
        # Beside the curves, which it would cover.
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
