"""Places that results are to go to, tried before there is any work: what cannot be written hours later is told at
once."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from glm.errors import UserError
from glm.files.guarded import reason_of


def check_file(path, flag):
    """Raise UserError unless a file can be written at a path, whose directory need not be there. flag: for the message,
    as "--output_file"."""
    if str(path).endswith(os.sep) or os.path.isdir(path):
        raise UserError(f"{flag} {path} is a directory; give the name of a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        return  # /dev/stdout, a pipe
    target = Path(os.path.realpath(path))
    with told(flag, path), like(target.parent) as directory:
        try_in(directory, target.name)


def check_directory(path, flag):
    """Raise UserError unless files can be written into the directory at a path, which need not be there."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{flag} {path} is no directory; give another one")
    with told(flag, path), like(Path(path)) as directory:
        try_in(directory, "")


@contextmanager
def told(flag, path):
    """Context in which a failure of the disk is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({reason_of(error)}); give another place") from None


@contextmanager
def like(directory):
    """Context that gives a directory as the one at a path would be, for trials: the one that is there, or else one of
    the same name made in a temporary one beside it, so that two processes that try one place do not meet."""
    there = next(place for place in (directory, *directory.parents) if os.path.lexists(place))
    if there == directory:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=there) as workshop:
        trial = Path(workshop) / directory.relative_to(there)
        trial.mkdir(parents=True)
        yield trial


def try_in(directory, name):
    """Write and remove a file in a directory, with a name as long as guarded.whole_file() takes for one called `name`.
    Raises OSError."""
    with tempfile.NamedTemporaryFile(prefix=f".{name}-", suffix=".partial", dir=directory) as file:
        file.write(b"tried")
        file.flush()
