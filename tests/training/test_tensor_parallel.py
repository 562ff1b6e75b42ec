"""Training runs divided among ranks: the losses, weights and texts of one process; checkpoints that fit any degree."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

import finetune_generation
import predict_generation
from glm.files import manifest
from glm.weights import builtin_model, model_directory, stored_weights
from tests.helpers import ROOT
from tests.helpers.runs import DEV, LAUNCH, SMALL, distance, launched, read_lines, weights_of

TRAIN = [*SMALL, "--do_train", "--logging_steps", "1", "--learning_rate", "4e-3", "--disable_tqdm", "True"]
RUN = [*TRAIN, "--do_eval", "--max_steps", "6", "--save_steps", "3", "--eval_steps", "6", "--num_beams", "2"]
BATCH = "--per_device_train_batch_size"
LORA = ["--lora", "True", "--lora_rank", "4", "--lora_target_modules", "all"]


def ranks(directory, count, *flags, run=RUN):
    """Train on so many ranks into a directory; what the launcher said."""
    script = ROOT / "finetune_generation.py"
    return launched(directory.parent, script, *run, *flags, "--output_dir", directory, ranks=count)


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
    assert set(names[0]) - {"optimizer.safetensors"} <= set(names[1])


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
    """Saving beside the training, too: all ranks' files are there before the checkpoint is."""
    again = resumed(tmp_path, divided, "--tensor_parallel_degree", "2", BATCH, "8", "--async_save", "True", count=2)
    expected, found = weights_of(divided), weights_of(again)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    one, other = (manifest.verify(side / "checkpoint-6", required=True)["files"] for side in (divided, again))
    arrays = [name for name in one if name.endswith(".safetensors")]
    assert len(arrays) == 4
    assert all(one[name] == other[name] for name in arrays)


def test_a_run_goes_on_at_another_degree(alone, divided, tmp_path):
    """From two ranks to one and from one to four: the weights and the optimizer's state are divided anew."""
    one = resumed(tmp_path, divided, BATCH, "8", count=1)
    four = resumed(tmp_path, alone, "--tensor_parallel_degree", "4", BATCH, "8", count=4)
    start = weights_of(builtin_model.build())
    for directory in (one, four):
        moved = distance(weights_of(alone), start)
        assert distance(weights_of(alone), weights_of(directory)) < 5e-3 * moved
    assert len(stored_weights.shard_files(four / "checkpoint-6")) == 4


def test_shards_answer_on_as_many_ranks_as_in_one_process(divided, tmp_path):
    data = tmp_path / "data.json"
    data.write_text("".join(DEV.read_text(encoding="utf8").splitlines(keepends=True)[:12]), encoding="utf8")
    flags = ["--model_name_or_path", str(divided / "checkpoint-6"), "--data_file", str(data), "--tgt_length", "12"]
    flags += ["--num_beams", "3", "--output_file"]
    predict_generation.main([*flags, str(tmp_path / "one.jsonl")])
    two = [*flags, tmp_path / "two.jsonl", "--tensor_parallel_degree", "2"]
    launched(tmp_path, ROOT / "predict_generation.py", *two, ranks=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    whole = ["--model_name_or_path", str(divided), *flags[2:], str(tmp_path / "whole.jsonl")]
    predict_generation.main(whole)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def launch(directory, *flags):
    """A job of two ranks that goes on for long: its launcher, whose screen is a file beside the directory."""
    command = [sys.executable, *LAUNCH, "--nproc_per_node", "2", "--log_dir", str(directory.parent / "log")]
    command += [str(ROOT / "finetune_generation.py"), *TRAIN, "--tensor_parallel_degree", "2", *flags]
    with open(directory.parent / "screen.txt", "w", encoding="utf8") as screen:
        # What runs tests in the background may have it ignore SIGINT, and so would this job.
        signals = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        command += ["--output_dir", str(directory)]
        return subprocess.Popen(command, stdout=screen, stderr=subprocess.STDOUT, **signals)


def test_a_rank_that_is_killed_takes_the_job_down_and_the_last_checkpoint_loads(tmp_path):
    directory = tmp_path / "out"
    job = launch(directory, "--max_steps", "100000", "--save_steps", "2")
    wait_for(directory / "checkpoint-4", job)
    ranks_of_job = psutil.Process(job.pid).children()
    assert len(ranks_of_job) == 2
    ranks_of_job[1].kill()
    assert job.wait(timeout=60) != 0
    assert re.search(r"rank=\[(0, )?1\] was aborted", (tmp_path / "screen.txt").read_text(encoding="utf8"))
    model_directory.load_model(directory / "checkpoint-4")


def wait_for(path, job):
    """Wait until a file is there, or the job is not any more."""
    until = time.monotonic() + 120
    while not path.exists() and job.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert path.exists()


def wait_for_end(processes):
    """Wait until some processes have ended."""
    assert psutil.wait_procs(processes, timeout=60)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_ranks_stop_with_their_launcher_after_the_same_step_and_go_on_from_it(tmp_path, number):
    """It passes SIGINT on as SIGTERM; of SIGTERM it dies, and they notice."""
    # The one is run to its end twice, the other must not come to it.
    steps = {signal.SIGTERM: "400", signal.SIGINT: "100000"}[number]
    flags = ["--max_steps", steps, "--save_steps", "100000"]
    job = launch(tmp_path / "out", *flags)
    wait_for(tmp_path / "out" / "metrics.jsonl", job)
    ranks_of_job = psutil.Process(job.pid).children()
    job.send_signal(number)
    assert job.wait(timeout=60) != 0
    wait_for_end(ranks_of_job)
    (saved,) = (tmp_path / "out").glob("checkpoint-*")
    step = manifest.verify(saved, required=True)["step"]
    assert len(stored_weights.shard_files(saved)) == 2
    assert f"SIGTERM: stopped after step {step}" in (tmp_path / "log" / "workerlog.0").read_text(encoding="utf8")

    if number == signal.SIGINT:
        return
    assert step < 400
    for directory in (tmp_path / "out", tmp_path / "whole"):
        ranks(directory, 2, "--tensor_parallel_degree", "2", *flags, run=TRAIN)
    expected, found = weights_of(tmp_path / "whole"), weights_of(tmp_path / "out")
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_what_stops_another_rank_is_told_where_the_job_was_started(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import glm.runtime, os\n"
        "from glm.errors import UserError, one_line_errors\n"
        "with one_line_errors():\n"
        "    if os.environ['PADDLE_TRAINER_ID'] == '1':\n"
        "        raise UserError('data.json:7: bad')\n"
        "    import time; time.sleep(100)\n",
        encoding="utf8",
    )
    command = [sys.executable, *LAUNCH, "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log"), str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "rank 1: error: data.json:7: bad" in done.stderr
