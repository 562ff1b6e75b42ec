"""Several processes share a file out, and what comes of it is one process's, byte for byte."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

import export_generation_model
import predict_generation
from tests.helpers import ROOT
from tests.helpers.runs import DEV, LAUNCH, launched, read_lines

# The last digit of a score may depend on how many threads compute. Of a 1 the launcher is no judge: it is its own.
THREADS = {"OMP_NUM_THREADS": "2"}
DECODING = ["--num_beams", "2", "--scores", "--tgt_length", "12"]
SAMPLING = ["--select_topk", "False", "--scores", "--tgt_length", "12", "--seed", "5"]
SHARED = ["--src_length", "96", "--batch_size", "3", "--data_file"]
RECORDS = 60


def alone(script, *flags):
    """Run a script in a process of its own; what it said."""
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    done = subprocess.run(command, env={**os.environ, **THREADS}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def as_many_threads(monkeypatch):
    """Launched processes inherit it."""
    for name, value in THREADS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The first records of the demo's evaluation, one of which has a character that the vocabulary does not know."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    lines = DEV.read_text(encoding="utf8").splitlines(keepends=True)[:RECORDS]
    path.write_text("".join(lines[:-1]) + lines[-1].replace('"context": "', '"context": "𠮷'), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def model(trained):
    return ["--model_name_or_path", str(trained)]


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    """{way to decode: the bytes of one process}"""
    found = {}
    for name, flags in (("beams", DECODING), ("sampling", SAMPLING)):
        output = tmp_path_factory.mktemp("whole") / "out.jsonl"
        alone("predict_generation.py", *model, *SHARED, data, *flags, "--output_file", output)
        found[name] = output.read_bytes()
    return found


@pytest.mark.parametrize(("ranks", "name", "flags"), [(2, "sampling", SAMPLING), (4, "beams", DECODING)])
def test_ranks_give_the_bytes_of_one_process(model, whole, data, tmp_path, ranks, name, flags):
    output = tmp_path / "out.jsonl"
    flags = [*model, *SHARED, data, *flags, "--output_file", output]
    said = launched(tmp_path, ROOT / "predict_generation.py", *flags, ranks=ranks)
    assert output.read_bytes() == whole[name]
    # Whoever is the last tells it where the job was started.
    assert said.count(f"{RECORDS} predictions written to {output}") == 1
    assert said.count(f"of {RECORDS} prompts have characters that the vocabulary does not know") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out.jsonl"]


def test_ranks_that_divide_the_model_share_the_prompts_out_among_their_groups(model, data, tmp_path):
    flags = [*model, *SHARED, data, "--tgt_length", "12", "--output_file"]
    alone("predict_generation.py", *flags, tmp_path / "one.jsonl")
    divided = [*flags, tmp_path / "out.jsonl", "--tensor_parallel_degree", "2"]
    launched(tmp_path, ROOT / "predict_generation.py", *divided, ranks=4)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_ranks_run_an_exported_program_together(model, data, tmp_path):
    export = [
        *model,
        "--tgt_length",
        "12",
        "--scores",
        "--num_beams",
        "2",
        "--output_path",
        tmp_path / "program" / "glm",
    ]
    export_generation_model.main([*map(str, export)])
    flags = ["--model_path", tmp_path / "program", "--runtime", "paddle", *SHARED, data, "--scores", "--output_file"]
    alone("infer_generation.py", *flags, tmp_path / "one.jsonl")
    launched(tmp_path, ROOT / "infer_generation.py", *flags, tmp_path / "two.jsonl", ranks=2)
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert all("score" in line for line in read_lines(tmp_path / "two.jsonl"))


def test_launchers_that_share_a_directory_give_the_bytes_of_one_process(model, whole, data, tmp_path):
    """As on several machines: two launchers with one process each, that meet at an address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    output = tmp_path / "out.jsonl"
    # With --backend the launcher knows of one machine alone.
    command = [sys.executable, "-m", "paddle.distributed.launch", "--master", address, "--nnodes", "2"]
    flags = [ROOT / "predict_generation.py", *model, *SHARED, data, *DECODING, "--output_file", output]
    jobs = [
        subprocess.Popen(
            [*command, "--nproc_per_node", "1", "--log_dir", str(tmp_path / f"log{node}"), *map(str, flags)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node in range(2)
    ]
    assert [job.wait(timeout=200) for job in jobs] == [0, 0]
    assert output.read_bytes() == whole["beams"]
    assert list(tmp_path.glob("*.partial")) == []


def test_a_rank_that_is_killed_goes_on_with_resume(model, whole, data, tmp_path):
    output = tmp_path / "out.jsonl"
    # The slower way, so that there is something left to kill.
    flags = [*model, *SHARED, data, *DECODING, "--engine", "python", "--batch_size", "1", "--output_file"]
    alone("predict_generation.py", *flags, tmp_path / "one.jsonl")
    flags = [*map(str, flags), str(output)]
    command = [sys.executable, *LAUNCH, "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    job = subprocess.Popen([*command, str(ROOT / "predict_generation.py"), *flags], stdout=subprocess.DEVNULL)
    kept = [output.with_name(f"out.jsonl.part-{number}-of-2.partial") for number in (1, 2)]
    # The other one may be through already, or not have begun.
    wait_until(lambda: kept[1].exists() and kept[1].read_bytes().count(b"\n") > 3, job)
    psutil.Process(job.pid).children()[1].send_signal(signal.SIGKILL)
    assert job.wait(timeout=60) != 0
    assert not output.exists()
    assert 3 < kept[1].read_bytes().count(b"\n") < RECORDS // 2
    launched(tmp_path, ROOT / "predict_generation.py", *flags, "--resume", ranks=2)
    assert output.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert not any(path.exists() for path in kept)


def wait_until(holds, job):
    """Wait until something holds, or the job is not any more."""
    until = time.monotonic() + 120
    while not holds() and job.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert holds()


def test_parts_without_a_launcher_give_the_bytes_of_one_process(model, whole, data, tmp_path):
    output = tmp_path / "out.jsonl"
    flags = [*model, *SHARED, data, *DECODING, "--output_file", output, "--part"]
    assert "1 of 2 parts are still to come" in alone("predict_generation.py", *flags, "2/2")
    assert not output.exists()
    assert f"{RECORDS} predictions written to {output}" in alone("predict_generation.py", *flags, "1/2")
    assert output.read_bytes() == whole["beams"]


def test_launched_processes_without_a_file_are_told_what_to_give(model, monkeypatch, capsys):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    for flags, told in (
        ([], "2 processes share the prompts out, and keep their parts beside the output: give --output_file FILE"),
        (["--interactive"], "--interactive: one process has a conversation, and there are 2"),
        (["--tensor_parallel_degree", "3"], "--tensor_parallel_degree 3 needs 3 processes, or a multiple"),
    ):
        with pytest.raises(SystemExit) as ended:
            predict_generation.main([*model, *flags])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


def test_evaluation_on_ranks_gives_the_bytes_of_one_process(trained, tmp_path):
    flags = [
        "--model_name_or_path",
        trained,
        "--task_name",
        ROOT / "demo" / "qg",
        "--do_eval",
        "--max_eval_samples",
        "40",
    ]
    flags += [
        "--num_beams",
        "2",
        "--min_tgt_length",
        "0",
        "--tgt_length",
        "12",
        "--src_length",
        "96",
        "--per_device_eval_batch_size",
        "3",
        "--disable_tqdm",
        "True",
    ]
    alone("finetune_generation.py", *flags, "--output_dir", tmp_path / "one")
    launched(tmp_path, ROOT / "finetune_generation.py", *flags, "--output_dir", tmp_path / "two", ranks=2)
    one, two = tmp_path / "one", tmp_path / "two"
    assert (two / "predictions.jsonl").read_bytes() == (one / "predictions.jsonl").read_bytes()
    losses = [json.loads((side / "all_results.json").read_text(encoding="utf8"))["eval_loss"] for side in (one, two)]
    assert losses[0] == losses[1]
