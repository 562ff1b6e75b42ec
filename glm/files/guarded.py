"""Writing outside of checkpoints: what fails of a by-product is a warning, of a result one line; a file that is there
is whole."""

import glob
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from glm.errors import RunError, one_line
from glm.files import locks

# What names of files end in that are being written.
PARTIAL = ".partial"


def reason_of(error):
    """An error in one line."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    return one_line(error)


@contextmanager
def by_product(what, warn):
    """Context in which any failure is a warning: what it writes is worth less than the run. warn: called with a
    line."""
    try:
        yield
    except Exception as error:
        warn(f"{what} is not written: {reason_of(error)}")


@contextmanager
def product(what, advice="make room and try again"):
    """Context in which a failure of the disk is a RunError, one line."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} could not be written: {reason_of(error)}; {advice}") from None


@contextmanager
def whole_file(path, mode="w"):
    """Context with a file to write that takes the place of `path`, on the disk, when the block ends without an error.
    What is no plain file (/dev/stdout, a pipe) is written into as it is. Raises OSError."""
    path = Path(path)
    encoding = None if "b" in mode else "utf8"
    if path.exists() and not path.is_file():
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a link points at is replaced, not the link.
    target = path.resolve()
    remove_abandoned(target)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}-", suffix=PARTIAL, dir=target.parent)
    try:
        # Until it is whole, so that others know what a killed process has left behind.
        locks.take(descriptor)
        os.fchmod(descriptor, (target.stat().st_mode & 0o777) if target.exists() else 0o666 & ~umask())
        with open(descriptor, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Before it is closed: until then nobody takes it for abandoned.
            os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def remove_abandoned(target):
    """Remove what killed processes have written of a file."""
    for left in target.parent.glob(f".{glob.escape(target.name)}-*{PARTIAL}"):
        if left.is_file() and locks.is_abandoned(left):
            left.unlink(missing_ok=True)


def umask():
    """The mask of modes of new files."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path, text):
    """Write a file, whole. Raises OSError."""
    with whole_file(path) as file:
        file.write(text)
