"""Names of files for libraries of C++ that take text for a path, and no bytes."""

import os
from contextlib import contextmanager
from pathlib import Path

from glm.errors import UserError


@contextmanager
def native_path(path):
    """Context with a name of a file that can be encoded as UTF-8: the path itself, or where its directory's name
    cannot, one by way of this process's open files. Raises UserError where its own name cannot, and OSError."""
    path = Path(path)
    if not is_text(path.name):
        raise UserError(f"{path}: its name is not UTF-8; give it another one")
    if is_text(path):
        yield path
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}") / path.name
    finally:
        os.close(descriptor)


def is_text(path):
    """Whether a path can be encoded as UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
