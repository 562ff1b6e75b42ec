"""Directories that appear whole or not at all, even if the machine loses power."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from glm.errors import UserError
from glm.files import locks, manifest

# How the names of workshops end: nobody else's directory is called so.
WORKSHOP = ".glm-partial"


@contextmanager
def new_directory(target, facts=None, name=manifest.FILE, mode=0o755):
    """Context with a directory to write into, which takes the place of `target` when the block ends without an error.

    The parent of `target` is made if it is not there. Where several processes make the same directory, the one that
    ends first has made it. facts: with them, even if there are none ({}), the directory gets a manifest of this name.
    mode: of the directory.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with workshop_in(target.parent, target.name) as workshop:
        yield workshop
        os.chmod(workshop, mode)  # mkdtemp lets nobody else in
        if facts is None:
            sync_files(workshop)
        else:
            manifest.write(workshop, manifest.measured_files(workshop), name, **facts)
        try:
            publish(workshop, target)
        except OSError:
            if not target.is_dir():
                raise


@contextmanager
def workshop_in(parent, name):
    """Context with a directory of this process's own, which goes when it ends; and so do those in the same place whose
    processes have been killed."""
    remove_abandoned(parent)
    workshop, descriptor = locked_workshop(parent, name)
    try:
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        os.close(descriptor)


def locked_workshop(parent, name):
    """(a new directory, a descriptor that holds its lock)."""
    while True:
        workshop = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=WORKSHOP, dir=parent))
        # Somebody who cleans up may be faster, before it is held.
        try:
            descriptor = os.open(workshop, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        if locks.take(descriptor) and locks.is_at(descriptor, workshop):
            return workshop, descriptor
        os.close(descriptor)


def remove_abandoned(parent):
    """Remove the workshops in a directory that nobody holds."""
    for path in Path(parent).glob(f".*{WORKSHOP}"):
        if path.is_dir() and not path.is_symlink() and locks.is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


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
    with workshop_in(directory, "result") as workshop:
        yield workshop
        files = manifest.measured_files(workshop)
        manifest.write(workshop, files, name, **facts)
        superfluous = old_files(directory, name) - files.keys()
        for file in (*files, name):
            (workshop / file).replace(directory / file)
        for file in superfluous:
            (directory / file).unlink(missing_ok=True)
        sync_directory(directory)


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
