"""Directories that appear whole or not at all."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from errors import UserError


@contextmanager
def new_directory(target):
    """Context with a directory to write into, which takes the place of `target` when the block ends without an error.

    The parent of `target` is made if it is not there. Where several processes make the same directory, the one that
    ends first has made it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield workshop
        os.chmod(workshop, 0o755)  # mkdtemp lets nobody else in
        try:
            workshop.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def check_is_free(target, flag):
    """Raise UserError unless a directory can be made anew at `target`, which `flag` names."""
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{flag} {target} is there already; give a new directory, nothing is overwritten")
