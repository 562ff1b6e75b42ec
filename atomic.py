"""Directories that appear whole or not at all, even if the machine loses power."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import manifest
from errors import UserError


@contextmanager
def new_directory(target, facts=None):
    """Context with a directory to write into, which takes the place of `target` when the block ends without an error.

    The parent of `target` is made if it is not there. Where several processes make the same directory, the one that
    ends first has made it. facts: with them, even if there are none ({}), the directory gets a manifest.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield workshop
        os.chmod(workshop, 0o755)  # mkdtemp lets nobody else in
        if facts is None:
            sync_files(workshop)
        else:
            manifest.write(workshop, manifest.measured_files(workshop), **facts)
        try:
            publish(workshop, target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def publish(workshop, target):
    """Rename a directory, whose files are on the disk, so that the new name is on the disk, too."""
    sync_directory(workshop)
    Path(workshop).rename(target)
    sync_directory(Path(target).parent)


@contextmanager
def replaced_files(directory, facts, name=manifest.FILE):
    """Context with a directory to write into, whose files replace those of the same names in `directory` when the block
    ends without an error, each whole, and the manifest last: until then, the old one says that files are not its own.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    workshop = directory / ".result.partial"
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir()
    try:
        yield workshop
        files = manifest.measured_files(workshop)
        manifest.write(workshop, files, name, **facts)
        superfluous = old_files(directory, name) - files.keys()
        for file in (*files, name):
            (workshop / file).replace(directory / file)
        for file in superfluous:
            (directory / file).unlink(missing_ok=True)
        sync_directory(directory)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def old_files(directory, name):
    """Names of the files that a directory's manifest of this name lists."""
    try:
        return set((manifest.read(directory, name) or {"files": {}})["files"])
    except manifest.DamageError:
        return set()


def sync_files(directory):
    """Have the files in a directory on the disk when this returns."""
    for path in Path(directory).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def sync_directory(directory):
    """Have the names in a directory on the disk when this returns."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_is_free(target, flag):
    """Raise UserError unless a directory can be made anew at `target`, which `flag` names."""
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{flag} {target} is there already; give a new directory, nothing is overwritten")
