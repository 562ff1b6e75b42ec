"""Optimizer steps end to end: what is divided or interrupted gives the weights of what is not."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import finetune_generation
from glm.weights import builtin_model
from tests.helpers import ROOT
from tests.helpers.runs import SMALL, distance, weights_of

RUN = [*SMALL, "--do_train", "--max_steps", "7", "--learning_rate", "1e-2", "--logging_steps", "1"]
RUN += ["--disable_tqdm", "True"]
# Three rows of several examples in a micro-batch, two of those in a step, three steps in an epoch.
DIVIDED = ["--packing", "--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "3"]
NOISY = [*DIVIDED, "--neftune_alpha", "5", "--max_train_samples", "90", "--save_steps", "1"]


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """The built-in model with dropout everywhere."""
    directory = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(builtin_model.build(), directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf8"))
    config.update({f"{name}_dropout_prob": 0.1 for name in ("embedding", "attention", "output")})
    path.write_text(json.dumps(config), encoding="utf8")
    return ["--model_name_or_path", str(directory)]


def run(directory, *flags):
    """Train into a directory; the weights by name."""
    finetune_generation.main([*RUN, *flags, "--output_dir", str(directory)])
    return weights_of(directory)


def test_a_run_that_stops_anywhere_goes_on_to_the_same_weights_bit_for_bit(dropping, tmp_path):
    expected = run(tmp_path / "whole", *dropping, *NOISY)
    for step in (1, 3, 5, 6):
        directory = tmp_path / f"from{step}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", directory / f"checkpoint-{step}")
        resumed = run(directory, *dropping, *NOISY)
        assert all(np.array_equal(expected[name], resumed[name]) for name in expected), f"from step {step}"


@pytest.mark.parametrize(
    "flags",
    [["--lora", "True", "--lora_target_modules", "all"], ["--packing"], ["--gradient_accumulation_steps", "2"]],
    ids=lambda flags: flags[0],
)
def test_saving_beside_the_training_saves_the_same_whatever_is_trained(flags, tmp_path):
    short = [*flags, "--max_steps", "4", "--save_steps", "2"]
    expected = run(tmp_path / "foreground", *short)
    found = run(tmp_path / "beside", *short, "--async_save", "True")
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "beside" / "checkpoint-2", resumed / "checkpoint-2")
    again = run(resumed, *short, "--async_save", "True")
    for name, weight in expected.items():
        assert np.array_equal(weight, found[name]), name
        assert np.array_equal(weight, again[name]), name


def test_draws_differ_from_step_to_step_and_with_the_seed(dropping, tmp_path):
    first = run(tmp_path / "first", *dropping, *NOISY, "--max_steps", "2")
    assert distance(first, run(tmp_path / "again", *dropping, *NOISY, "--max_steps", "2")) == 0
    assert distance(first, run(tmp_path / "other", *dropping, *NOISY, "--max_steps", "2", "--seed", "7")) > 1e-5


@pytest.mark.parametrize("group", ["True", "False"])
def test_accumulating_four_times_two_equals_a_batch_of_eight(tmp_path, group):
    flags = ["--group_by_length", group, "--max_train_samples", "44"]  # the last step of an epoch has 4 of 8
    whole = run(tmp_path / "8", *flags, "--per_device_train_batch_size", "8")
    divided = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"]
    start = weights_of(builtin_model.build())
    assert distance(whole, run(tmp_path / "4x2", *flags, *divided)) < 1e-3 * distance(whole, start)


def test_packing_equals_single_examples_in_steps_of_all_data(tmp_path):
    """With all examples in every step, how they are packed cannot matter."""
    flags = ["--max_train_samples", "24", "--per_device_train_batch_size", "24", "--max_steps", "4"]
    plain = run(tmp_path / "plain", *flags)
    start = weights_of(builtin_model.build())
    assert distance(plain, run(tmp_path / "packed", *flags, "--packing")) < 1e-3 * distance(plain, start)


@pytest.mark.parametrize("lora", [[], ["--lora", "True", "--lora_target_modules", "all"]], ids=["full", "lora"])
def test_two_ranks_with_two_micro_batches_equal_one_batch(tmp_path, lora):
    """The last step of an epoch has 4 of 8 examples, one for each micro-batch of each rank."""
    flags = ["--max_train_samples", "44", *lora]
    whole = run(tmp_path / "whole", *flags, "--per_device_train_batch_size", "8")
    divided = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    launch += ["--log_dir", str(tmp_path / "log"), str(ROOT / "finetune_generation.py")]
    done = subprocess.run(
        [sys.executable, *launch, *RUN, *flags, *divided, "--output_dir", str(tmp_path / "ranks")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    start = {name: array for name, array in weights_of(builtin_model.build()).items() if name in whole}
    start.update({name: np.zeros_like(whole[name]) for name in whole if name.endswith("lora_B")})
    moved = {name: whole[name] for name in start}
    assert distance(whole, weights_of(tmp_path / "ranks")) < 1e-3 * distance(moved, start)


def test_training_stops_when_nothing_gets_better_and_the_best_checkpoint_outlives_the_limit(tmp_path):
    """The loss on the evaluation rows has its minimum early: the rate is far too high."""
    flags = ["--do_eval", "--eval_steps", "1", "--save_steps", "1", "--save_total_limit", "1", "--max_steps", "40"]
    flags += ["--prediction_loss_only", "True", "--load_best_model_at_end", "--early_stopping_patience", "3"]
    flags += ["--per_device_train_batch_size", "8", "--learning_rate", "0.5"]
    best = run(tmp_path, *flags)
    state = json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf8"))
    losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    best_step = int(np.argmin(losses)) + 1
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best_step}")
    assert state["global_step"] == best_step + 3
    kept = weights_of(tmp_path / f"checkpoint-{best_step}")
    assert all(np.array_equal(best[name], kept[name]) for name in best)


def test_a_dry_run_says_what_it_read_and_writes_nothing(tmp_path, capfd):
    finetune_generation.main([*RUN, "--do_eval", "--dry_run", "--output_dir", str(tmp_path / "out")])
    said = capfd.readouterr().out
    for text in (
        "source_median",
        "target_p95",
        "source_cut 0",
        "[gMASK]<|endoftext|>",
        "<|endofpiece|>",
        "parameters: ",
    ):
        assert text in said, text
    assert "estimated memory" in said
    assert not (tmp_path / "out").exists()
