"""Locks, so that two processes do not write into one place: held by an open file, so that the kernel gives them up when
a process ends, however it ends.

Where a file system has no locks, nothing is locked.
"""

import errno
import fcntl
import os
import socket
from contextlib import contextmanager
from pathlib import Path

from glm.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class LockedError(UserError):
    """Another process writes into a place; the message says which, in one line."""


@contextmanager
def held(path, what):
    """Context in which this process alone holds the lock file `path`, which goes when it ends.

    what: what is locked, for the message. Raises LockedError with the pid and the host of who holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = acquired(path, what)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def held_for(target):
    """held() for a directory or file that is to be made: the lock lies beside it."""
    target = Path(target)
    return held(target.with_name(f".{target.name}.lock"), target)


def acquired(path, what):
    """A descriptor of a lock file that this process holds. Raises LockedError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not take(descriptor):
            pid, _, host = os.pread(descriptor, 200, 0).decode("utf8", "replace").strip().partition(" ")
            os.close(descriptor)
            raise LockedError(
                f"{what} is in use by process {pid or '?'} on {host or '?'}; wait until it has ended, or give another"
            )
        if is_at(descriptor, path):
            return descriptor
        # Whoever held it has removed it since.
        os.close(descriptor)


def take(descriptor):
    """Whether this process holds the lock of an open file or directory now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NO_LOCKS
    return True


def is_at(descriptor, path):
    """Whether an open file is the one that has a name."""
    try:
        there, own = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def is_abandoned(path):
    """Whether nobody holds a file or directory that was made to be written into: the file system has locks, and this
    one is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
