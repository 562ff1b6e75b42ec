"""Starts real training runs, interrupts them and looks at what they leave."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from glm.files import manifest
from glm.training import saving
from tests.helpers import ROOT, killed_run  # noqa: F401

RUN = ["--model_name_or_path", "glm-tiny-chinese", "--task_name", "demo_qg", "--do_train", "--max_train_samples", "24"]
RUN += ["--per_device_train_batch_size", "2", "--src_length", "64", "--tgt_length", "16", "--learning_rate", "1e-2"]
RUN += ["--max_steps", "5", "--save_steps", "1", "--save_total_limit", "1", "--logging_steps", "2"]
RUN += ["--disable_tqdm", "True"]
STARTED = "plan: output in"
TIME_LIMIT = 300


def start(directory, *flags, kill=0):
    """A run that ends before its `kill`-th write step, if that is not 0: (its process, the file of its output).

    Processes are forked from one that has imported everything: a run of five steps takes a tenth of its imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.killed_run"])
    log = Path(f"{directory}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    flags = [*RUN, *flags, "--output_dir", str(directory)]
    process = context.Process(target=killed_run.run_forked, args=(str(log), kill, flags))
    process.start()
    return process, log


def ended(process, log):
    """What has come of a run, as subprocess.run() would say it."""
    process.join(TIME_LIMIT)
    assert process.exitcode is not None, log.read_text(encoding="utf8")[-3000:]
    return subprocess.CompletedProcess([], process.exitcode, log.read_text(encoding="utf8"), "")


def run(directory, *flags, kill=0):
    """Run to the end, or to a kill: the finished process with its output."""
    return ended(*start(directory, *flags, kill=kill))


def run_and_signal(directory, number, *flags, after=0.0):
    """Run, send a signal so many seconds after training began; the finished process."""
    process, log = start(directory, *flags)
    while process.is_alive() and not (log.exists() and STARTED in log.read_text(encoding="utf8", errors="replace")):
        time.sleep(0.01)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    return ended(process, log)


def files_of(directory):
    """{name: content} of all that a run has made of its model, at the end."""
    names = manifest.read(directory)["files"]
    manifest.verify(directory, required=True)
    return {name: (Path(directory) / name).read_bytes() for name in names}


def losses(directory):
    """The training losses that a run has logged, by step."""
    entries = [json.loads(line) for line in (Path(directory) / "metrics.jsonl").read_text().splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


class Life:
    """A run that is killed again and again, in one output_dir, until it gets to its end."""

    def __init__(self, directory, expected, *flags):
        """expected: files_of() the run that nothing interrupts."""
        self.directory, self.expected, self.flags = Path(directory), expected, flags
        self.kills, self.saved = 0, 0

    def start(self, kill):
        """Go on until a write step. Returns whether the run came to its end instead."""
        return self.outlived(run(self.directory, *self.flags, kill=kill))

    def start_for(self, seconds):
        """Go on for so many seconds of training. Returns whether the run came to its end before."""
        return self.outlived(run_and_signal(self.directory, signal.SIGKILL, *self.flags, after=seconds))

    def outlived(self, done):
        """Check what the process left. Returns whether it came to its end."""
        self.check_resumed(done)
        if done.returncode == 0:
            found = files_of(self.directory)
            assert found.keys() == self.expected.keys()
            assert [name for name in found if found[name] != self.expected[name]] == []
            return True
        assert done.returncode == -signal.SIGKILL, done.stdout[-3000:] + done.stderr[-3000:]
        self.kills += 1
        self.check_checkpoints()
        return False

    def check_resumed(self, done):
        """The run went on from what the kill before it left."""
        found = re.search(r"resuming from \S*checkpoint-(\d+)", done.stdout)
        assert int(found[1]) if found else self.saved == 0, done.stdout[-3000:]
        assert not found or int(found[1]) == self.saved
        assert "is not used" not in done.stdout + done.stderr

    def check_checkpoints(self):
        """Every checkpoint is whole, and the newest no older than before."""
        found = saving.checkpoints(self.directory)
        for path in found:
            manifest.verify(path, required=True)
        newest = int(found[-1].name.rpartition("-")[2]) if found else 0
        assert newest >= self.saved
        self.saved = newest


def lives(directory, expected, kills, *flags):
    """Kill runs by kills, functions of a Life that return whether it came to its end; the number of kills.

    Each begins where the one before it ended; a life that has ended as it should is followed by another.
    """
    count, number, life = 0, 0, Life(Path(directory) / "0", expected, *flags)
    for kill in kills:
        for _ in range(2):
            if not kill(life):
                break
            count, number = count + life.kills, number + 1
            life = Life(Path(directory) / str(number), expected, *flags)
    assert life.start(0)
    return count + life.kills
