"""Training runs divided among ranks: the losses, weights and texts of one process; checkpoints that fit any degree."""

import json
import shutil

import numpy as np
import pytest
from test_parallel import launched
from test_resume import distance
from test_scripts import ROOT, SMALL, read_lines, weights_of

import builtin_model
import checkpoint
import finetune_generation

RUN = [*SMALL, "--do_train", "--do_eval", "--max_steps", "6", "--save_steps", "3", "--eval_steps", "6"]
RUN += ["--logging_steps", "1", "--learning_rate", "4e-3", "--disable_tqdm", "True", "--num_beams", "2"]
BATCH = "--per_device_train_batch_size"
LORA = ["--lora", "True", "--lora_rank", "4", "--lora_target_modules", "all"]


def ranks(directory, count, *flags):
    """Train on so many ranks into a directory; what the launcher said."""
    script = ROOT / "finetune_generation.py"
    return launched(directory.parent, script, *RUN, *flags, "--output_dir", directory, ranks=count)


def losses(directory):
    return [entry["loss"] for entry in read_lines(directory / "metrics.jsonl") if "loss" in entry]


def assert_same_run(one, other):
    """Losses at every step, scores and texts."""
    np.testing.assert_allclose(losses(one), losses(other), rtol=0, atol=1e-4)
    results = [json.loads((directory / "all_results.json").read_text()) for directory in (one, other)]
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], abs=1e-4)
    assert (one / "predictions.jsonl").read_bytes() == (other / "predictions.jsonl").read_bytes()
    start = {name: array for name, array in weights_of(builtin_model.build()).items() if name in weights_of(one)}
    weights = weights_of(one)
    moved = distance(weights, start | {name: 0 * array for name, array in weights.items() if name not in start})
    assert distance(weights, weights_of(other)) < 5e-3 * moved


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Output directory of a run in one process."""
    directory = tmp_path_factory.mktemp("alone") / "out"
    finetune_generation.main([*RUN, BATCH, "8", "--output_dir", str(directory)])
    return directory


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Output directory of the same run on two tensor-parallel ranks."""
    directory = tmp_path_factory.mktemp("divided") / "out"
    ranks(directory, 2, "--tensor_parallel_degree", "2", BATCH, "8")
    return directory


def test_two_tensor_parallel_ranks_make_the_run_of_one_process(alone, divided):
    assert_same_run(alone, divided)
    shards = sorted(path.name for path in (divided / "checkpoint-3").glob("model*"))
    assert shards == ["model_state.tp00.safetensors", "model_state.tp01.safetensors"]
    assert sorted(path.name for path in divided.glob("model*")) == ["model.safetensors"]
    # Divided among data-parallel ranks or not, each sample is evaluated once.
    assert len(read_lines(divided / "predictions.jsonl")) == 6


def test_two_by_two_ranks_make_the_run_of_one_process(alone, tmp_path):
    ranks(tmp_path / "out", 4, "--tensor_parallel_degree", "2", BATCH, "4")
    assert_same_run(alone, tmp_path / "out")


def test_lora_on_two_tensor_parallel_ranks_leaves_the_adapter_of_one_process(tmp_path):
    finetune_generation.main([*RUN, *LORA, BATCH, "8", "--output_dir", str(tmp_path / "alone")])
    ranks(tmp_path / "out", 2, *LORA, "--tensor_parallel_degree", "2", BATCH, "8")
    assert_same_run(tmp_path / "alone", tmp_path / "out")
    names = [sorted(path.name for path in (tmp_path / side / "checkpoint-3").iterdir()) for side in ("alone", "out")]
    assert set(names[0]) - {"rng_state.pth", "optimizer.pdopt"} <= set(names[1])


def resumed(tmp_path, source, *flags, count):
    """Output directory of a run that goes on from the middle of another one."""
    directory = tmp_path / f"from{count}" / "out"
    shutil.copytree(source / "checkpoint-3", directory / "checkpoint-3")
    if count == 1:
        finetune_generation.main([*RUN, *flags, "--output_dir", str(directory)])
    else:
        ranks(directory, count, *flags)
    return directory


def test_a_run_goes_on_at_its_degree_bit_for_bit(divided, tmp_path):
    again = resumed(tmp_path, divided, "--tensor_parallel_degree", "2", BATCH, "8", count=2)
    expected, found = weights_of(divided), weights_of(again)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_run_goes_on_at_another_degree(alone, divided, tmp_path):
    """From two ranks to one and from one to four: the weights and the optimizer's state are divided anew."""
    one = resumed(tmp_path, divided, BATCH, "8", count=1)
    four = resumed(tmp_path, alone, "--tensor_parallel_degree", "4", BATCH, "8", count=4)
    start = weights_of(builtin_model.build())
    for directory in (one, four):
        moved = distance(weights_of(alone), start)
        assert distance(weights_of(alone), weights_of(directory)) < 5e-3 * moved
    assert len(checkpoint.shard_files(four / "checkpoint-6")) == 4
