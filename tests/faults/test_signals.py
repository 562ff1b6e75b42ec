"""Signals: the step is finished, saved, and the run goes on from it to the end that it would have had."""

import signal
import subprocess
import sys
import time

import pytest

from glm.files import manifest
from tests.helpers import killing

LONG = ["--max_steps", "400", "--save_steps", "1000"]


def test_a_run_stopped_by_each_signal_in_turn_ends_as_the_one_that_nothing_stops(tmp_path):
    assert killing.run(tmp_path / "whole", *LONG).returncode == 0
    expected, steps = killing.files_of(tmp_path / "whole"), [0]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        done = killing.run_and_signal(tmp_path / "run", number, *LONG, after=0.3)
        assert done.returncode == 128 + number, done.stdout[-3000:]
        (saved,) = (path for path in (tmp_path / "run").iterdir() if path.name.startswith("checkpoint-"))
        assert manifest.verify(saved, required=True)["step"] > steps[-1]
        steps.append(manifest.read(saved)["step"])
        assert f"{number.name}: stopped after step {steps[-1]}, saved as {saved}; the same command" in done.stdout
        assert "Traceback" not in done.stdout
    assert killing.run(tmp_path / "run", *LONG).returncode == 0
    found = killing.files_of(tmp_path / "run")
    assert [name for name in expected if found[name] != expected[name]] == []
    # What was logged is the same, too: a stop in between two entries loses nothing of either.
    losses = [killing.losses(tmp_path / side) for side in ("whole", "run")]
    assert losses[0] == losses[1]
    # The first step, and every second one.
    assert len(losses[0]) == 201


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_a_process_at_once(second, code):
    script = (
        "import time\nfrom glm import stopping\n"
        "with stopping.StopSignals() as signals:\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.01)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=killing.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    # A terminal and a launcher pass the same request on twice.
    process.send_signal(signal.SIGTERM)
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(second)
    _, told = process.communicate(timeout=10)
    assert process.returncode == code
    assert told.splitlines() == ["SIGINT: the step under way is finished and saved; once more stops at once"]
