"""Runs that are killed while they save, or at any moment: every checkpoint there is is whole, and the end is that of a
run which nothing interrupted, bit for bit.

make test kills ten times, make test-faults at every write step of a save, and some.
"""

import random
import re

import pytest

from faults import harness


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """(files of the run that nothing interrupts, its number of write steps)."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    done = harness.run(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return harness.files_of(directory), int(re.search(r"write steps: (\d+)", done.stdout)[1])


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
    count = harness.lives(tmp_path, files, [*kills, after(0.1), after(0.3)])
    report(count, capsys)
    assert count >= 10


@pytest.mark.faults
@pytest.mark.parametrize("flags", [[], ["--async_save", "True"]], ids=["foreground", "background"])
def test_a_kill_at_every_write_step_of_a_save_and_at_random_moments_loses_nothing(expected, tmp_path, capsys, flags):
    files, steps = expected
    # In the background, array by array would show nothing that the foreground does not.
    every = range(1, steps // 6 + 1) if not flags else range(1, steps // 6, 12)
    moments = random.Random(20261124)
    kills = [*map(at, every), *(after(moments.uniform(0, 1)) for _ in range(15))]
    count = harness.lives(tmp_path, files, kills, *flags)
    report(count, capsys)
    assert count >= (50 if not flags else 15)
