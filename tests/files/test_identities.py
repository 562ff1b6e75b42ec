"""What a directory is known by does not depend on whether anybody remembers it, and is never older than its files."""

import os
import time

import pytest

from glm.files import identities, manifest


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory of two files that were written a while ago; what is remembered is kept beside it."""
    monkeypatch.setenv("GLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(identities, "SETTLED", 0.0)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.bin").write_bytes(b"weights")
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf8")
    return tmp_path / "model"


def hashed(monkeypatch):
    """A list that grows by the path of every file that is read for its hash from now on."""
    found, real = [], manifest.measured
    monkeypatch.setattr(manifest, "measured", lambda path: (found.append(path), real(path))[1])
    return found


def test_files_are_read_once_and_again_when_one_was_written(directory, monkeypatch):
    read = hashed(monkeypatch)
    first = identities.identity(directory)
    assert first == manifest.identity(directory)
    count = len(read)
    assert identities.identity(directory) == first
    assert len(read) == count
    time.sleep(0.01)
    (directory / "a.bin").write_bytes(b"WEIGHTS")
    second = identities.identity(directory)
    assert second == manifest.identity(directory) != first


CHANGES = {
    "another file": lambda directory: (directory / "b.bin").touch(),
    "one less": lambda directory: (directory / "a.bin").unlink(),
    "another name": lambda directory: (directory / "a.bin").rename(directory / "c.bin"),
    "the same size and times": lambda directory: replaced(directory / "a.bin", b"WEIGHTS"),
}


def replaced(path, content):
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("kind", CHANGES)
def test_whatever_changes_is_noticed(directory, kind):
    first = identities.identity(directory)
    time.sleep(0.01)
    CHANGES[kind](directory)
    assert identities.identity(directory) == manifest.identity(directory) != first


def test_a_directory_that_is_not_as_its_manifest_says_has_none(directory):
    manifest.write(directory, manifest.measured_files(directory))
    assert identities.identity(directory) == manifest.identity(directory)
    time.sleep(0.01)
    (directory / "a.bin").write_bytes(b"WEIGHTS")
    for _ in range(2):
        with pytest.raises(manifest.DamageError, match=r"a\.bin: altered since it was written"):
            identities.identity(directory)


def test_what_was_written_a_moment_ago_is_not_remembered(directory, monkeypatch):
    """Within the tick of a clock a file could be written again without a trace."""
    monkeypatch.setattr(identities, "SETTLED", 3600.0)
    read = hashed(monkeypatch)
    for _ in range(2):
        identities.identity(directory)
    assert len(read) == 4


@pytest.mark.parametrize("content", ["", "[]", "[1, 2, 3]", "no json", '["x", "y"]'])
def test_what_is_remembered_wrongly_is_of_no_account(directory, content):
    right = identities.identity(directory)
    (memory,) = (directory.parent / "cache" / identities.FOLDER).iterdir()
    memory.write_text(content, encoding="utf8")
    assert identities.identity(directory) == right
