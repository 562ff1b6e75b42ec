"""Runs that are killed while they save, or at any moment: every checkpoint there is is whole, and the end is that of a
run which nothing interrupted, bit for bit.

make test kills ten times, make test-faults at every write step of a save, and some.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from glm.export import program
from glm.files import manifest
from glm.training import saving
from tests.helpers import ROOT, killing
from tests.helpers.runs import DEV, LAUNCH


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """(files of the run that nothing interrupts, its number of write steps)."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    done = killing.run(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return killing.files_of(directory), int(re.search(r"write steps: (\d+)", done.stdout)[1])


def at(step):
    """A kill before a write step."""
    return lambda life: life.start(step)


def after(seconds):
    """A kill so many seconds after training begins."""
    return lambda life: life.start_for(seconds)


def report(count, capsys):
    """Print how many kills there were."""
    with capsys.disabled():
        print(f"\n{count} kills, every one survived")


def test_ten_kills_lose_nothing(expected, tmp_path, capsys):
    """In the first save: before its first step, in the middle of arrays, around the manifest and the renaming."""
    files, steps = expected
    of_a_save = steps // 6  # five checkpoints and the result
    kills = [at(step) for step in (1, 2, 20, of_a_save // 2, *range(of_a_save - 14, of_a_save, 4))]
    count = killing.lives(tmp_path, files, [*kills, after(0.1), after(0.3)])
    report(count, capsys)
    assert count >= 10


def moments(seed, count, longest):
    """Kills at random moments of training."""
    draw = random.Random(seed)
    return [after(draw.uniform(0, longest)) for _ in range(count)]


VICTIMS = {
    "foreground": [],
    "background": ["--async_save", "True"],
    "LoRA": ["--lora", "True"],
    "LoRA in the background": ["--lora", "True", "--async_save", "True"],
}


@pytest.mark.faults
@pytest.mark.parametrize("name", VICTIMS)
def test_a_kill_at_every_write_step_of_a_save_and_at_random_moments_loses_nothing(tmp_path, capsys, name):
    flags = VICTIMS[name]
    done = killing.run(tmp_path / "whole", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    files, steps = killing.files_of(tmp_path / "whole"), int(re.search(r"write steps: (\d+)", done.stdout)[1])
    # In the background, array by array would show nothing that the foreground does not.
    every = range(1, steps // 6 + 1, 12 if "background" in name else 1)
    kills = [*map(at, every), *moments(name, 30, 1.0)]
    count = killing.lives(tmp_path / "lives", files, kills, *flags)
    report(count, capsys)
    assert count >= (30 if "background" in name else 50)


def killed_after(command, seconds, ready=lambda: True):
    """Start a command in a group of its own, and kill all of it so many seconds after ready(); whether it had ended."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not ready():
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == 0


def finished(command):
    """Run a command to its end."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def contents(directory):
    """{name: bytes} of the files in a directory; there are no others, nor directories."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.faults)])
def test_predictions_go_on_after_kills_with_nothing_lost(tmp_path, kills):
    lines = DEV.read_text(encoding="utf8").split("\n")[:20]
    (tmp_path / "data.json").write_text("\n".join(lines), encoding="utf8")
    command = [sys.executable, "predict_generation.py", "--model_name_or_path", "glm-tiny-chinese", "--batch_size", "1"]
    command += ["--src_length", "64", "--tgt_length", "40", "--data_file", str(tmp_path / "data.json"), "--output_file"]
    (tmp_path / "whole").mkdir()
    finished([*command, str(tmp_path / "whole" / "out.jsonl")])
    draw, number, kept = random.Random(kills), 0, 0
    for _ in range(kills):
        place = tmp_path / str(number)
        place.mkdir(exist_ok=True)
        partial = place / "out.jsonl.partial"
        more = [str(place / "out.jsonl"), *(["--resume"] if partial.exists() else [])]
        ended = killed_after([*command, *more], draw.uniform(0, 0.6), lambda file=partial: file.exists())
        count = partial.read_bytes().count(b"\n") if partial.exists() else 0
        assert ended or count >= kept
        kept, number = (0, number + 1) if ended else (count, number)
    place = tmp_path / str(number)
    place.mkdir(exist_ok=True)
    finished([*command, str(place / "out.jsonl"), *(["--resume"] if (place / "out.jsonl.partial").exists() else [])])
    assert contents(place) == contents(tmp_path / "whole")


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.faults)])
def test_an_export_that_is_killed_leaves_the_old_program_or_the_new_one(tmp_path, kills):
    command = [sys.executable, "export_generation_model.py", "--model_name_or_path", "glm-tiny-chinese"]
    command += ["--output_path", str(tmp_path / "out" / "glm"), "--num_beams"]
    finished([*command, "2"])
    draw, beams = random.Random(kills), 2
    for _ in range(kills):
        ended = killed_after([*command, "3"], draw.uniform(1.0, 8.0))
        found = program.describe(tmp_path / "out", "glm").config.num_beams if whole(tmp_path / "out") else None
        assert found in (beams, 3, None)
        assert not ended or found == 3
        # Between the first and the last file's renaming, it is neither: and then it is noticed.
        beams = found or beams
    finished([*command, "3"])
    assert program.describe(tmp_path / "out", "glm").config.num_beams == 3
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def whole(directory):
    """Whether a directory holds a program as it was written; else that is noticed."""
    try:
        program.describe(directory, "glm")
    except manifest.DamageError:
        return False
    return True


@pytest.mark.faults
@pytest.mark.parametrize("flags", [[], ["--lora", "True"], ["--async_save", "True"]], ids=" ".join)
def test_two_ranks_that_are_killed_together_lose_nothing(tmp_path, flags):
    command = [sys.executable, *LAUNCH, "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    command += ["finetune_generation.py", *killing.RUN, "--tensor_parallel_degree", "2", *flags, "--output_dir"]
    finished([*command, str(tmp_path / "whole")])
    draw, output = random.Random(7), tmp_path / "out"
    newest = 0
    for _ in range(8):
        if killed_after([*command, str(output)], draw.uniform(0, 2.0), lambda: (output / ".lock").exists()):
            break
        for path in saving.checkpoints(output):
            manifest.verify(path, required=True)
        steps = [saving.step_of(path) for path in saving.checkpoints(output)]
        assert max(steps, default=0) >= newest
        newest = max(steps, default=0)
    finished([*command, str(output)])
    assert killing.files_of(output) == killing.files_of(tmp_path / "whole")
