"""Disks that are full or gone: a by-product is a warning, a result one line, and no file is half there."""

import errno
import os
import subprocess
import sys

import pytest

from glm.errors import RunError
from glm.files import guarded
from tests.helpers import ROOT

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "place")


@pytest.mark.parametrize("error", [FULL, ValueError("x\ny"), MemoryError()])
def test_a_by_product_that_fails_is_a_warning_of_one_line(error):
    said = []
    with guarded.by_product("loss.png", said.append):
        raise error
    (line,) = said
    assert line.startswith("loss.png is not written: ")
    assert len(line.splitlines()) == 1


def test_a_result_that_fails_is_one_line():
    line = r"^out could not be written: place: No space left on device; make room"
    with pytest.raises(RunError, match=line), guarded.product("out"):
        raise FULL
    with pytest.raises(ZeroDivisionError), guarded.product("out"):
        raise ZeroDivisionError


def fail_writing(file, content):
    file.write(content)
    raise FULL


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_file_is_there_whole_or_as_it_was(tmp_path, mode):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with guarded.whole_file(path, mode) as file:
            file.write(text if mode == "w" else text.encode())
            assert not path.exists() or path.read_text() == "first"
    with pytest.raises(OSError, match="No space"), guarded.whole_file(path, mode) as file:
        fail_writing(file, "third" if mode == "w" else b"third")
    assert path.read_text() == "second"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path):
    (tmp_path / "real").write_text("a")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    guarded.write_text(tmp_path / "link", "b")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "b"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_process_has_written_of_a_file_goes_and_what_is_being_written_stays(tmp_path):
    target = tmp_path / "a[1].jsonl"
    script = (
        "import os, signal, sys\nfrom glm.files.guarded import whole_file\n"
        "with whole_file(sys.argv[1]) as file:\n    file.write('half')\n    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(target)], cwd=ROOT)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".a[1].jsonl-mine").write_text("a file of the user's", encoding="utf8")
    with guarded.whole_file(target) as file:
        assert not left.exists()
        # Another writer, at the same time.
        guarded.write_text(target, "other")
        file.write("whole")
    assert target.read_text(encoding="utf8") == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a[1].jsonl-mine", "a[1].jsonl"]


def test_what_is_no_plain_file_is_written_into():
    guarded.write_text("/dev/null", "text")
    assert not os.path.isfile("/dev/null")
