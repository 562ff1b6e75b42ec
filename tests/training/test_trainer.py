"""The schedule and the clip, the meter, the order of rows of batching.py, the log of callbacks.py."""

import shutil
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.training.batching import TrainingBatches, grouped_batches, packed
from glm.training.callbacks import PLOTTED, figure_of, plot, read_metrics
from glm.training.meter import Meter
from glm.training.optimization import GlobalNormClip, linear_factor
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (3, 0.3), (10, 1.0), (55, 0.6), (100, 0.2), (150, 0.2)],
)
def test_the_rate_rises_to_its_peak_and_falls_to_its_fraction(step, factor):
    # 10 steps of warm-up, 100 in all, down to 0.2: halfway down (step 55) it is 1 - 0.8 / 2.
    assert linear_factor(step, 10, 100, 0.2) == pytest.approx(factor)


def test_without_warmup_the_first_step_has_the_full_rate():
    assert linear_factor(0, 0, 10, 0.0) == 1.0
    assert linear_factor(10, 0, 10, 0.0) == 0.0


def test_the_clip_scales_to_the_global_norm_and_remembers_it():
    gradients = [np.array([3.0, 0.0], "float32"), np.array([[4.0]], "float32")]  # norm 5
    parameters = [paddle.create_parameter(list(gradient.shape), "float32") for gradient in gradients]
    clip = GlobalNormClip(1.0)
    given = [(p, paddle.to_tensor(g)) for p, g in zip(parameters, gradients, strict=True)]
    clipped = clip(given)
    assert float(clip.last_norm) == pytest.approx(5.0)
    assert all(one is other for (_, one), (_, other) in zip(given, clipped, strict=True)), "no second set of gradients"
    for (_, gradient), original in zip(clipped, gradients, strict=True):
        np.testing.assert_allclose(gradient.numpy(), original / 5.0, rtol=1e-5)


def test_the_meter_counts_laps_and_the_whole(monkeypatch):
    times = iter([0.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr("glm.training.meter.time", SimpleNamespace(time=lambda: next(times)))
    meter = Meter()
    meter.add(paddle.to_tensor([100]))  # starts the clock at 0
    meter.add(paddle.to_tensor([100]))
    assert meter.lap() == 100.0  # 200 tokens in 2 s
    meter.add(paddle.to_tensor([60]))
    assert meter.lap() == 30.0
    assert meter.mean() == 260 / 8


@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=150),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 3),
    megabatch=st.integers(1, 8),
)
def test_every_row_is_in_one_batch(lengths, batch_size, epoch, megabatch):
    batches = grouped_batches(lengths, batch_size, 1, epoch, megabatch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    again = grouped_batches(lengths, batch_size, 1, epoch, megabatch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_grouping_pads_less_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(10, 600, 2000)

    def padded(batches):
        return sum(len(batch) * lengths[batch].max() for batch in batches)

    grouped, drawn = grouped_batches(lengths, 8, 1, 0), grouped_batches(lengths, 8, 1, 0, megabatch=1)
    assert padded(grouped) < 1.05 * lengths.sum()
    assert padded(drawn) > 1.5 * lengths.sum()
    assert not np.array_equal(grouped[0], grouped_batches(lengths, 8, 1, 1)[0])


def samplers(lengths, batch_size, accumulation, ranks, **kwargs):
    """The TrainingBatches of every rank."""
    return [
        TrainingBatches(
            lengths,
            lengths,
            lengths,
            batch_size,
            accumulation=accumulation,
            seed=1,
            num_replicas=ranks,
            rank=rank,
            **kwargs,
        )
        for rank in range(ranks)
    ]


plans = {
    "lengths": st.lists(st.integers(2, 30), min_size=1, max_size=60),
    "batch_size": st.integers(1, 5),
    "accumulation": st.integers(1, 3),
    "ranks": st.integers(1, 3),
    "epoch": st.integers(0, 2),
    "capacity": st.sampled_from([None, 30, 45]),
}


@given(**plans, drop_last=st.booleans())
def test_an_epoch_is_whole_steps_whose_micro_batches_ranks_share(
    lengths, batch_size, accumulation, ranks, epoch, capacity, drop_last
):
    of_ranks = samplers(lengths, batch_size, accumulation, ranks, capacity=capacity, drop_last=drop_last)
    for sampler in of_ranks:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in of_ranks]
    assert {len(of_rank) for of_rank in batches} == {of_ranks[0].steps * accumulation}
    assert all(batch for of_rank in batches for batch in of_rank)
    for step in range(of_ranks[0].steps):
        chosen = [of_rank[step * accumulation + i] for of_rank in batches for i in range(accumulation)]
        tokens = sum(lengths[example] for batch in chosen for example in batch)
        assert [sampler.target_tokens(step + 7 * sampler.steps) for sampler in of_ranks] == [tokens] * ranks
    examples = [example for of_rank in batches for batch in of_rank for example in batch]
    if not drop_last:
        assert set(examples) == set(range(len(lengths)))
    if len(of_ranks[0].row_lengths) >= accumulation * ranks:
        assert len(set(examples)) == len(examples) or len(of_ranks[0].row_lengths) % of_ranks[0].rows_of_a_step


@given(**plans)
def test_a_step_has_the_same_examples_however_it_is_divided(lengths, batch_size, accumulation, ranks, epoch, capacity):
    (whole,) = samplers(lengths, batch_size * accumulation * ranks, 1, 1, capacity=capacity)
    of_ranks = samplers(lengths, batch_size, accumulation, ranks, capacity=capacity)
    for sampler in (whole, *of_ranks):
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in of_ranks]
    for step, wanted in enumerate(whole):
        chosen = [of_rank[step * accumulation + i] for of_rank in batches for i in range(accumulation)]
        assert {example for batch in chosen for example in batch} == set(wanted)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(20, 40))
def test_packed_rows_hold_every_example_once_within_their_capacity(lengths, capacity):
    rows = packed(lengths, capacity, seed=3)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    sizes = [sum(lengths[example] for example in row) for row in rows]
    assert all(size <= capacity or len(row) == 1 for size, row in zip(sizes, rows, strict=True))
    # First fit leaves no two rows that would fit into one.
    assert all(a + b > capacity for i, a in enumerate(sizes) for b in sizes[:i])
    assert rows == packed(lengths, capacity, seed=3)


def test_a_torn_last_line_of_the_log_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf8")
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "none") == []


SCREENSHOTS = ROOT / "screenshots"
LOGGED = [{"step": step, "loss": 3 / step, "learning_rate": 0.1 / step} for step in range(1, 20)]
LOGGED += [{"step": 10, "eval_loss": 1.0}, {"step": 15, "loss": None, "grad_norm": None}]
SCORED = [{"step": 10, **{f"eval_{name}": 50.0 + len(name) for name in PLOTTED}}]


@pytest.mark.parametrize("entries", [[], LOGGED, [*LOGGED, *SCORED]], ids=["empty", "losses", "scores"])
def test_the_plot_is_legible(entries, tmp_path):
    """Every text lies inside of the picture, and on no other text."""
    from matplotlib import image, pyplot

    plot(entries, tmp_path / "loss.png")
    assert image.imread(tmp_path / "loss.png").shape[1] == 960
    figure = figure_of(entries)
    figure.canvas.draw()
    texts = [text for text in figure.findobj(pyplot.Text) if text.get_visible() and text.get_text().strip()]
    # Tick labels beyond an axis' end are there and not drawn.
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    boxes = [(text, box) for text, box in boxes if box.width]
    labels = {text for text, _ in boxes}
    assert {"optimizer step", "learning rate", "loss per target token (nats)"} <= labels
    assert ({"training", "evaluation"} <= labels) == bool(entries)
    assert (set(PLOTTED) <= labels) == (len(entries) == len([*LOGGED, *SCORED]))
    named = [(text, box) for text, box in boxes if text in PLOTTED or not text[-1].isdigit()]
    for number, (text, box) in enumerate(named):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
        for other, other_box in named[number + 1 :]:
            assert not box.overlaps(other_box), (text, other)
    pyplot.close(figure)
    # To be looked at: a test sees overlaps, not ugliness.
    SCREENSHOTS.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "loss.png", SCREENSHOTS)
