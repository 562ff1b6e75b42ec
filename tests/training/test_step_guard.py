"""Steps that are not finite, memory that runs out and disks that are full: what becomes of the run."""

import errno
import json
import os
import shutil

import numpy as np
import paddle
import pytest

import finetune_generation
from glm.files import manifest
from glm.model import modeling
from glm.training import saving
from glm.training.optimization import AdamW, GlobalNormClip
from glm.weights import builtin_model, weight_writers
from tests.helpers.runs import SMALL, distance, weights_of

RUN = [*SMALL, "--do_train", "--max_steps", "6", "--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-2"]
RUN += ["--per_device_train_batch_size", "8", "--disable_tqdm", "True"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Weights of the run that nothing disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    finetune_generation.main([*RUN, "--output_dir", str(directory)])
    return weights_of(directory)


def ended(capfd, code, *flags):
    """What a run that ends with an exit code writes to stdout, and its one line on stderr."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        finetune_generation.main([*RUN, *map(str, flags)])
    assert stopped.value.code == code
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    return captured.out, line


def adamw_steps(*arguments, **settings):
    with paddle.utils.unique_name.guard():
        return steps_of_adamw(*arguments, **settings)


def steps_of_adamw(gradients, clip, on_device=False):
    """A parameter after AdamW's steps with these gradients, and the optimizer's moments."""
    parameter = paddle.create_parameter([3], "float32", default_initializer=paddle.nn.initializer.Constant(1.0))
    clip = GlobalNormClip(clip)
    if on_device:
        # As where the host does not read what the device computes.
        clip._dygraph_clip = lambda grads: setattr(clip, "last_norm", grads[0][1].norm()) or clip.unless_bad(grads)
    optimizer = AdamW(0.1, parameters=[parameter], grad_clip=clip, weight_decay=0.1)
    for gradient in gradients:
        parameter.grad = paddle.to_tensor(np.array(gradient, "float32"))
        optimizer.step()
    return parameter.numpy(), {name: np.array(value) for name, value in optimizer.state_dict().items()}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("clip", [1.0, np.inf])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_moments(bad, clip):
    """3e38 is finite and its square is not, so the norm is not."""
    good = [[0.3, -0.1, 2.0], [0.1, 0.2, 0.3]]
    weights, moments = adamw_steps(good, clip)
    skipping, kept = adamw_steps([good[0], [0.1, bad, 0.1], good[1]], clip)
    assert np.array_equal(weights, skipping)
    assert all(np.array_equal(moments[name], kept[name]) for name in moments)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("clip", [1.0, np.inf])
def test_on_a_device_that_nobody_waits_for_the_weights_stay(bad, clip):
    good = [[0.3, -0.1, 2.0], [0.1, 0.2, 0.3]]
    assert np.array_equal(adamw_steps(good, clip)[0], adamw_steps(good, clip, on_device=True)[0])
    before, after = (adamw_steps(steps, clip, on_device=True) for steps in (good, [*good, [0.1, bad, 0.1]]))
    assert np.array_equal(before[0], after[0])
    assert all(np.isfinite(value).all() for value in after[1].values())


@pytest.fixture
def poisoned(tmp_path):
    """Spoils the built-in model: called with a function that changes arrays by name; gives flags."""

    def spoil(change):
        from safetensors.numpy import load_file, save_file

        shutil.copytree(builtin_model.build(), tmp_path / "model")
        weights = load_file(str(tmp_path / "model" / "model.safetensors"))
        change(weights)
        save_file(weights, str(tmp_path / "model" / "model.safetensors"))
        return ["--model_name_or_path", tmp_path / "model"]

    return spoil


def records_file(path, long_at):
    """A data file of 24 records, all with short questions but one, whose line is given."""
    question = "这个湖在哪里？"
    records = [
        {"context": f"青湖在山脚下，第{i}次去看它。", "answer": "山脚下", "question": question} for i in range(24)
    ]
    records[long_at - 1]["question"] = "青山湖水边石桥上看日出的人们每天早上几点到" * 2
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf8")


def test_a_record_that_poisons_its_step_is_named_and_left_out(poisoned, tmp_path, capfd):
    """Only its target is long enough to come to a position whose embedding's sum is no number any more."""

    def spoil(weights):
        weights["glm.transformer.block_position_embeddings.weight"][25:] = 3e38

    records_file(tmp_path / "data.json", long_at=17)
    flags = [*RUN, *map(str, poisoned(spoil)), "--task_name", str(tmp_path / "data.json"), "--tgt_length", "60"]
    flags += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2", "--group_by_length", "False"]
    finetune_generation.main([*flags, "--output_dir", str(tmp_path / "out")])
    said = capfd.readouterr().out
    (line,) = (line for line in said.splitlines() if "is left out" in line)
    # The other record of its micro-batch is under suspicion, too, and no more.
    assert f"{tmp_path / 'data.json'}:17" in line
    assert line.count("data.json:") == 2
    weights = weights_of(tmp_path / "out")
    assert all(np.isfinite(array).all() for array in weights.values())
    entries = [json.loads(text) for text in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    logged = [entry for entry in entries if "loss" in entry]
    assert [entry["loss"] for entry in logged].count(None) == 1
    assert [entry["grad_norm"] for entry in logged].count(None) == 1
    assert np.isfinite(json.loads((tmp_path / "out" / "all_results.json").read_text())["train_loss"])


def test_a_run_whose_every_step_is_bad_stops_and_names_the_checkpoint_before_them(expected, tmp_path, capfd):
    """A weight is poisoned after the third step: after the checkpoint of the second."""
    output = tmp_path / "out"
    forward, calls = modeling.GLMForConditionalGeneration.forward, []

    def poisoning(self, *arguments, **settings):
        calls.append(1)
        if len(calls) == 4:
            self.glm.transformer.final_layernorm.weight.set_value(paddle.full([96], np.nan))
        return forward(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling.GLMForConditionalGeneration, "forward", poisoning)
        flags = ["--max_bad_steps", "3", "--max_steps", "40", "--save_steps", "2", "--output_dir", output]
        said, line = ended(capfd, 1, *flags)
    assert said.count("is left out") == 3
    assert "error: 3 steps in a row" in line
    assert "the last one is step 6" in line
    assert f"the last good checkpoint is {output / 'checkpoint-2'};" in line
    manifest.verify(output / "checkpoint-2", required=True)


@pytest.mark.parametrize("step", [1, 3])
def test_memory_that_runs_out_halves_the_micro_batch_and_nothing_else(expected, tmp_path, capfd, step):
    """In the first step, and in the third, with two steps done and saved."""
    forward, calls = modeling.GLMForConditionalGeneration.forward, []

    def limited(self, input_ids, *arguments, lengths=None, **settings):
        calls.append(len(lengths))
        if len(calls) >= step and len(lengths) > 4:
            raise MemoryError("(ResourceExhausted)")
        return forward(self, input_ids, *arguments, lengths=lengths, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling.GLMForConditionalGeneration, "forward", limited)
        said, line = ended(capfd, 1, "--output_dir", tmp_path / "stopped")
        assert f"memory ran out in step {step}, with 8 examples of " in line
        for flag in ("--auto_batch", "--recompute", "--src_length", "--packing", "--lora"):
            assert flag in line
        calls.clear()
        finetune_generation.main([*RUN, "--auto_batch", "--output_dir", str(tmp_path / "out")])
    said = capfd.readouterr().out
    assert "going on with --per_device_train_batch_size 4 --gradient_accumulation_steps 2" in said
    assert len(calls) == step + 2 * (6 - step + 1)
    start = weights_of(builtin_model.build())
    assert distance(expected, weights_of(tmp_path / "out")) < 1e-3 * distance(expected, start)


def full_disk(patch, of_step, kind=errno.ENOSPC):
    """Have the disk be full in the middle of writing the weights of a checkpoint; a list that empties makes room."""
    write, full = weight_writers.WeightsWriter.write, [True]

    def failing(self, *pieces):
        if full and f"checkpoint-{of_step}.partial" in str(self.file.name) and len(self.written) == 5:
            raise OSError(kind, os.strerror(kind))
        return write(self, *pieces)

    patch.setattr(weight_writers.WeightsWriter, "write", failing)
    return full


@pytest.mark.parametrize("background", ["False", "True"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint_whole(expected, tmp_path, capfd, background):
    flags = ["--async_save", background, "--output_dir", tmp_path]
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, of_step=4)
        _, line = ended(capfd, 1, *flags)
    assert "No space left on device" in line
    assert "GiB of them are missing" in line
    assert f"{tmp_path / 'checkpoint-2'} is whole" in line
    manifest.verify(tmp_path / "checkpoint-2", required=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or path.name == "checkpoint-4"]
    finetune_generation.main([*RUN, *map(str, flags)])
    found = weights_of(tmp_path)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("background", ["False", "True"])
def test_a_run_goes_on_with_a_full_disk_if_it_is_told_to(expected, tmp_path, capfd, background):
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, of_step=4)
        flags = ["--on_save_error", "continue", "--async_save", background]
        finetune_generation.main([*RUN, *flags, "--output_dir", str(tmp_path)])
    assert "training goes on (--on_save_error continue)" in capfd.readouterr().out
    assert [path.name for path in saving.checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-6"]
    found = weights_of(tmp_path)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_save_for_which_there_is_no_room_is_not_begun(tmp_path, capfd):
    usage = shutil.disk_usage(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
        _, line = ended(capfd, 1, "--output_dir", tmp_path)
    assert f"{tmp_path}: a save needs " in line
    assert "GiB are missing; there is no earlier checkpoint" in line
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_saving_beside_the_training_saves_what_there_was_when_it_began(expected, tmp_path):
    """However late it writes."""
    import time

    write = saving.Pending.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving.Pending, "write", lambda self: time.sleep(0.2) or write(self))
        finetune_generation.main([*RUN, "--async_save", "True", "--output_dir", str(tmp_path / "late")])
    finetune_generation.main([*RUN, "--output_dir", str(tmp_path / "plain")])
    for step in (2, 4, 6):
        one, other = (tmp_path / side / f"checkpoint-{step}" for side in ("late", "plain"))
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), (step, name)
    assert all(np.array_equal(array, weights_of(tmp_path / "late")[name]) for name, array in expected.items())


def test_a_run_does_not_go_on_with_the_timers_of_one_that_an_error_ended(tmp_path, capfd, monkeypatch):
    def failing(self, *arguments, **settings):
        raise MemoryError("(ResourceExhausted)")

    with monkeypatch.context() as patch:
        patch.setattr(modeling.GLMForConditionalGeneration, "forward", failing)
        ended(capfd, 1, "--skip_profile_timer", "False", "--output_dir", tmp_path / "failed")
    finetune_generation.main([*RUN, "--output_dir", str(tmp_path / "out")])
    assert manifest.verify(tmp_path / "out" / "checkpoint-6", required=True)["step"] == 6
