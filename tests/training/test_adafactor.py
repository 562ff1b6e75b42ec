"""Adafactor against the paper's Algorithm 4 in NumPy, in runs that are interrupted or divided, and what it keeps."""

import shutil
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

import finetune_generation
from glm.training import optimization
from glm.training.memory import GIB, training_memory
from tests.helpers import ROOT
from tests.helpers.runs import SMALL, distance, launched, weights_of

RUN = [*SMALL, "--do_train", "--max_steps", "4", "--save_steps", "2", "--logging_steps", "1", "--disable_tqdm", "True"]
RUN += ["--optim", "adafactor", "--learning_rate", "1e-2", "--weight_decay", "0.1", "--max_grad_norm", "0.5"]
LORA = ["--lora", "True", "--lora_target_modules", "all", "--lora_plus_scale", "4"]


def reference(weight, gradients, rate, decay):
    """A parameter after these gradients, in float64: Shazeer & Stern 2018, Algorithm 4 (and 5 for vectors), with
    alpha_t = rate, d = 1, eps_1 = 1e-30, beta_2t = 1 - t ** -0.8, and decoupled weight decay."""
    weight = weight.astype("float64")
    rows, columns, squares = 0.0, 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        beta, square = 1 - t**-0.8, gradient.astype("float64") ** 2 + 1e-30
        if weight.ndim == 2:
            rows = beta * rows + (1 - beta) * square.sum(1)
            columns = beta * columns + (1 - beta) * square.sum(0)
            estimate = np.outer(rows, columns) / rows.sum()
        else:
            squares = beta * squares + (1 - beta) * square
            estimate = squares
        update = gradient / np.sqrt(estimate)
        update = update / max(1.0, np.sqrt(np.mean(update**2)))
        weight = weight * (1 - rate * decay) - rate * update
    return weight


def optimizer_of(named, **flags):
    """The optimizer of a model that has these parameters, {name: parameter}."""
    settings = {"optim": "adafactor", "max_grad_norm": 0.0, "weight_decay": 0.0, "fp16_opt_level": "O1"}
    model = SimpleNamespace(named_parameters=named.items, parameters=lambda: list(named.values()))
    return optimization.optimizer_of(model, SimpleNamespace(**settings | flags), 0.03, optimization.ALONE)


@pytest.mark.parametrize("shape", [(5, 7), (1, 6), (4, 1), (9,)], ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_paper(shape, decay):
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape).astype("float32")
    # Of different sizes, so that some updates are clipped and others are not.
    gradients = [(rng.normal(size=shape) * scale).astype("float32") for scale in (1e-3, 1.0, 30.0, 0.1, 0.0)]
    weight = paddle.create_parameter(list(shape), "float32")
    weight.set_value(start)
    optimizer = optimizer_of({"layer.weight": weight}, weight_decay=decay)
    for gradient in gradients:
        (weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    np.testing.assert_allclose(weight.numpy(), reference(start, gradients, 0.03, decay), rtol=2e-5, atol=2e-6)


def test_a_step_that_is_not_finite_changes_neither_weights_nor_means():
    weight = paddle.create_parameter([3, 2], "float32")
    optimizer = optimizer_of({"layer.weight": weight})
    kept = []
    for value in (1.0, np.nan, np.inf):
        (weight.sum() * value).backward()
        optimizer.step()
        optimizer.clear_grad()
        kept.append([weight.numpy().copy(), *(tensor.numpy().copy() for tensor in optimizer.state_dict().values())])
    for later in kept[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(kept[0], later, strict=True))


def run(directory, *flags):
    finetune_generation.main([*RUN, *flags, "--output_dir", str(directory)])
    return weights_of(directory)


@pytest.mark.parametrize("flags", [[], LORA], ids=["whole", "lora"])
def test_a_run_goes_on_bit_for_bit(tmp_path, flags):
    expected = run(tmp_path / "whole", *flags)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "on" / "checkpoint-2")
    found = run(tmp_path / "on", *flags)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    state = load_file(str(tmp_path / "on" / "checkpoint-4" / "optimizer.safetensors"))
    assert any("_rows_" in name for name in state)
    assert not any("moment" in name for name in state)
    other = run(tmp_path / "adamw", *flags, "--optim", "adamw")
    assert any(not np.array_equal(expected[name], other[name]) for name in expected)


def without_key_biases(weights):
    """Weights but the biases of keys, whose gradient is 0 but for rounding: a step is as large as for any other."""
    kept = dict(weights)
    for name in [name for name in weights if name.endswith("query_key_value.bias")]:
        queries, _, values = np.split(weights[name], 3)
        kept[name] = np.concatenate([queries, values])
    return kept


@pytest.mark.parametrize(
    "flags", [pytest.param([], id="whole"), pytest.param(LORA, id="lora", marks=pytest.mark.faults)]
)
def test_two_ranks_make_the_run_of_one_process_and_it_goes_on_at_another_degree(tmp_path, flags):
    flags = [*flags, "--per_device_train_batch_size", "8"]
    expected, script = run(tmp_path / "alone", *flags), ROOT / "finetune_generation.py"
    divided = [*RUN, *flags, "--tensor_parallel_degree", "2", "--output_dir"]
    launched(tmp_path, script, *divided, tmp_path / "divided", ranks=2)
    shutil.copytree(tmp_path / "divided" / "checkpoint-2", tmp_path / "on" / "checkpoint-2")
    on = run(tmp_path / "on", *flags)
    start = weights_of(tmp_path / "alone" / "checkpoint-2")
    expected, start, divided, on = map(without_key_biases, (expected, start, weights_of(tmp_path / "divided"), on))
    moved = distance(expected, start)
    assert distance(expected, divided) < 5e-3 * moved
    assert distance(expected, on) < 5e-3 * moved


def test_the_estimate_of_memory_knows_what_it_keeps():
    config = SimpleNamespace(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=1000)
    shapes = [(100, 50), (30,)]
    kept = optimization.numbers_kept("adafactor", shapes)
    assert kept == (1 + 100 + 50) + (1 + 30)
    assert optimization.numbers_kept("adamw", shapes) == 2 * 5030
    parts = training_memory(config, 5030, 5030, [(10, 2)], kept=kept)
    assert parts["optimizer"] == pytest.approx(4 * kept / GIB)
    half = training_memory(config, 5030, 5030, [(10, 2)], kept=kept, half=True)
    assert half["optimizer"] == pytest.approx(4 * (kept + 5030) / GIB)
