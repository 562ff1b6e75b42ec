"""What directories are known by, remembered from one process to the next: gigabytes are hashed once, and again only
when a file was written since."""

import hashlib
import json
import os
import time
from pathlib import Path

from glm.cache import own_cache_directory
from glm.files import manifest
from glm.files.guarded import write_text

FOLDER = "identities"
# Seconds after which a file's times are sure to change when it is written to again.
SETTLED = 2.0


def identity(directory, name=manifest.FILE):
    """manifest.identity() of a directory that is as its manifest says, if it has one. Raises DamageError, OSError."""
    directory = Path(directory)
    signature, changed = state_of(directory)
    place = os.fsencode(directory.resolve() / name)
    memory = own_cache_directory() / FOLDER / hashlib.sha256(place).hexdigest()[:32]
    if (known := read(memory)) is not None and known[0] == signature:
        return known[1]
    manifest.verify(directory, name=name)
    found = manifest.identity(directory, name)
    if time.time() - changed > SETTLED:
        try:
            memory.parent.mkdir(mode=0o700, exist_ok=True)
            write_text(memory, json.dumps([signature, found]))
        except OSError:
            # Where nothing can be kept, it is hashed again.
            pass
    return found


def state_of(directory):
    """(what shows that nobody has written to a directory's files, the last time that somebody did)."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    measures = manifest.signature_of(paths)
    state = [[path.relative_to(directory).as_posix() for path in paths], measures]
    last = max((time_ns for _, *times, _ in measures for time_ns in times), default=0)
    return hashlib.sha256(json.dumps(state).encode()).hexdigest(), last / 1e9


def read(memory):
    """[signature, identity] that was remembered in a file, or None."""
    try:
        signature, found = json.loads(memory.read_text(encoding="utf8"))
    except (OSError, ValueError, TypeError):
        return None
    return signature, found
