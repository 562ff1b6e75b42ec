"""One process at a time in one place, and nothing left for ever of those that were killed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from glm.files import atomic, locks
from tests.helpers import ROOT

HOLD = """
import sys
sys.path.insert(0, {root!r})
from glm.files import {module}
with {call}:
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that holds something until it is told to end."""

    def __init__(self, module, call):
        code = HOLD.format(root=str(ROOT), module=module, call=call)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "held\n"

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def end(self):
        self.process.communicate("")


def test_a_lock_tells_who_holds_it_and_goes_when_it_is_given_up(tmp_path):
    path = tmp_path / "place" / ".lock"
    holder = Holder("locks", f"locks.held({str(path)!r}, 'x')")
    with pytest.raises(locks.LockedError) as told, locks.held(path, "--output_dir out"):
        pytest.fail("it was held")
    who = re.escape(f"process {holder.process.pid} on {socket.gethostname()}")
    assert re.match(f"--output_dir out is in use by {who}; ", str(told.value))
    holder.end()
    assert not path.exists()
    with locks.held(path, "x"):
        assert path.exists()
    assert not path.exists()


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / ".lock"
    holder = Holder("locks", f"locks.held({str(path)!r}, 'x')")
    holder.kill()
    with locks.held(path, "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_given_up_when_its_block_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locks.held(tmp_path / ".lock", "x"):
            raise ZeroDivisionError


def test_where_there_are_no_locks_nothing_is_locked_and_nothing_removed(tmp_path, monkeypatch):
    def nothing(*_):
        raise OSError(locks.NO_LOCKS[0], "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", nothing)
    with locks.held(tmp_path / ".lock", "x"), locks.held(tmp_path / ".lock", "x"):
        pass
    (tmp_path / f".a-12345678{atomic.WORKSHOP}").mkdir()
    atomic.remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("call", ["new_directory({!r})", "replaced_files({!r}, {{}})"])
def test_workshops_of_killed_processes_go_and_those_of_others_stay(tmp_path, call):
    target = tmp_path / "target"
    place = tmp_path if "new" in call else target
    own = [tmp_path / ".mine", tmp_path / f"seen{atomic.WORKSHOP}"]
    for directory in own:
        directory.mkdir()
    living, killed = (Holder("atomic", f"atomic.{call.format(str(target))}") for _ in range(2))
    assert len(list(place.glob(f".*{atomic.WORKSHOP}"))) == 2
    killed.kill()
    with atomic.new_directory(place / "another") as workshop:
        assert len(list(place.glob(f".*{atomic.WORKSHOP}"))) == 2
        assert workshop.is_dir()
    living.end()
    assert list(place.glob(f".*{atomic.WORKSHOP}")) == []
    assert all(directory.is_dir() for directory in own)


def test_a_kill_gives_a_lock_up_at_once(tmp_path):
    """The lock is the kernel's: it needs nothing of the process that had it."""
    holder = Holder("locks", f"locks.held({str(tmp_path / '.lock')!r}, 'x')")
    os.kill(holder.process.pid, signal.SIGSTOP)
    with pytest.raises(locks.LockedError), locks.held(tmp_path / ".lock", "x"):
        pytest.fail("it was held")
    holder.kill()
    with locks.held(tmp_path / ".lock", "x"):
        pass


@pytest.mark.parametrize("step", ["made", "opened"])
def test_a_workshop_that_is_cleaned_up_before_it_is_held_is_made_again(tmp_path, monkeypatch, step):
    """By who finds it without a lock, in the moment before it gets one."""
    made, removed = [], []
    module, name = (atomic.tempfile, "mkdtemp") if step == "made" else (atomic.os, "open")
    real = getattr(module, name)

    def and_clean_up(*arguments, **settings):
        found = real(*arguments, **settings)
        made.append(found)
        if not removed:
            removed.append(True)
            shutil.rmtree(found if step == "made" else arguments[0])
        return found

    monkeypatch.setattr(module, name, and_clean_up)
    with atomic.workshop_in(tmp_path, "a") as workshop:
        assert workshop.is_dir()
        assert len(made) > 1
