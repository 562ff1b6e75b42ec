"""What is kept is what was made, or is made anew: whatever has become of it."""

import os
import shutil

import pytest

from glm.errors import UserError
from glm.files import cached as cache


def make(directory):
    (directory / "a.bin").write_bytes(bytes(range(256)) * 40)
    (directory / "b.json").write_text("{}", encoding="utf8")


def zero(path):
    content = path.read_bytes()
    path.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])


DAMAGES = {
    "cut": lambda target: os.truncate(target / "a.bin", 100),
    "half zeroed": lambda target: zero(target / "a.bin"),
    "empty": lambda target: os.truncate(target / "a.bin", 0),
    "lost": lambda target: (target / "a.bin").unlink(),
    "another": lambda target: (target / "b.json").write_text("[]", encoding="utf8"),
    "more": lambda target: (target / "c.bin").touch(),
    "no manifest": lambda target: (target / cache.MANIFEST).unlink(),
    "a manifest of nothing": lambda target: (target / cache.MANIFEST).write_text("{}", encoding="utf8"),
    "open to all": lambda target: target.chmod(0o777),
    "nothing there": lambda target: (shutil.rmtree(target), target.mkdir()),
    "a file": lambda target: (shutil.rmtree(target), target.write_text("x", encoding="utf8")),
    "a link": lambda target: (target.rename(target.with_name("moved")), target.symlink_to(target.with_name("moved"))),
    "a link to nowhere": lambda target: (shutil.rmtree(target), target.symlink_to(target.with_name("nowhere"))),
}


def content(target):
    return {path.name: path.read_bytes() for path in target.iterdir() if path.name != cache.MANIFEST}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_damaged_is_made_anew_and_told(tmp_path, kind):
    said = []
    target = cache.cached(tmp_path / "kept", make, said.append)
    expected = content(target)
    assert target.stat().st_mode & 0o777 == 0o700
    DAMAGES[kind](target)
    cache.cached(target, make, said.append)
    (line,) = said
    assert line.startswith(f"{target} is made anew: ")
    assert content(target) == expected
    assert {path.name for path in tmp_path.iterdir()} <= {"kept", "moved"}


def test_what_is_whole_is_made_once(tmp_path):
    made = []
    for _ in range(3):
        cache.cached(tmp_path / "kept", lambda directory: (made.append(1), make(directory)), pytest.fail)
    assert len(made) == 1


def test_what_belongs_to_another_user_is_not_used(tmp_path, monkeypatch):
    target = cache.cached(tmp_path / "kept", make)
    monkeypatch.setattr(cache.os, "geteuid", lambda: os.getuid() + 1)
    assert cache.problem_of(target) == "it belongs to another user"


def test_what_cannot_be_removed_is_told_in_one_line(tmp_path, monkeypatch):
    target = cache.cached(tmp_path / "kept", make)
    (target / "c").touch()

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cache.os, "rename", refuse)
    with pytest.raises(UserError, match="GLM_CACHE_DIR"):
        cache.cached(target, make, lambda line: None)
