"""Directories that are kept because making them takes time: verified when they are used, made anew when they are not
what was made."""

import os
import shutil
from pathlib import Path

from glm.errors import UserError, note
from glm.files import manifest
from glm.files.atomic import new_directory

# Not manifest.json: a copy of the directory is somebody's own, to be changed.
MANIFEST = ".cached.json"


def cached(target, make, warn=None, verify=None):
    """The directory `target`, a Path; made by make(directory) unless it is there, whole, and this user's alone to
    write.

    warn: called with a line when what is there is made anew; default: it goes to stderr. verify(target, name): raises
    DamageError if files are not as the manifest of this name says; default: all are read for it.
    """
    if os.path.lexists(target):
        if (problem := problem_of(target, verify)) is None:
            return target
        (warn or note)(f"{target} is made anew: {problem}")
        remove(target)
    with new_directory(target, facts={}, name=MANIFEST, mode=0o700) as workshop:
        make(workshop)
    return target


def problem_of(target, verify=None):
    """What keeps a directory from being used, None if nothing does; verify: see cached()."""
    try:
        state = os.lstat(target)
        if state.st_uid != os.geteuid():
            return "it belongs to another user"
        if not target.is_dir() or target.is_symlink():
            return "it is no directory"
        if state.st_mode & 0o022:
            return "others may write into it"
        if (content := manifest.read(target, MANIFEST)) is None:
            return f"{MANIFEST} is missing"
        (verify or manifest.verify)(target, name=MANIFEST)
        listed = content["files"]
        if more := sorted(path.name for path in target.iterdir() if path.name not in {*listed, MANIFEST}):
            return f"{more[0]} was put into it"
    except (manifest.DamageError, OSError) as error:
        return str(error)
    return None


def remove(target):
    """Take a directory out of the way. Raises UserError."""
    doomed = Path(f"{target}.damaged-{os.getpid()}")
    try:
        os.rename(target, doomed)
    except OSError as error:
        raise UserError(f"{target}: cannot be made anew ({error.strerror}); remove it, or set GLM_CACHE_DIR") from None
    if doomed.is_symlink() or not doomed.is_dir():
        doomed.unlink()
    else:
        shutil.rmtree(doomed, ignore_errors=True)
