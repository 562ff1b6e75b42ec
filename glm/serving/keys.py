"""API keys: who may ask a server that not everybody is to use."""

import hashlib
import hmac
import os
from pathlib import Path

from glm.errors import UserError

VARIABLE = "GLM_API_KEY"
# Shorter ones are guessed.
SHORTEST = 8


class Keys:
    """Some keys. They are kept as digests, so that none gets into a log or a traceback, and takes no longer to compare
    the more of it is right."""

    def __init__(self, keys):
        self.digests = [digest(key) for key in keys]

    def allow(self, authorization):
        """Whether a header Authorization (a text, or None) has one of them: "Bearer KEY"."""
        scheme, _, key = (authorization or "").partition(" ")
        given = digest(key.strip())
        # All of them, so that time tells nothing of which one it was.
        found = [hmac.compare_digest(given, known) for known in self.digests]
        return scheme.lower() == "bearer" and any(found)


def digest(key):
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf8", "surrogateescape")).digest()


def keys_of(path):
    """The Keys in a file, one a line, and in the environment; None if there are none. Empty lines and those that begin
    with # do not count. Raises UserError."""
    keys = [os.environ[VARIABLE]] if os.environ.get(VARIABLE) else []
    if path is not None:
        lines = lines_of(path)
        if not lines:
            raise UserError(f"--api_key_file {path}: no key in it; write one a line")
        keys += lines
    for key in keys:
        if len(key) < SHORTEST or not key.isascii() or " " in key:
            place = f"--api_key_file {path}" if path is not None else VARIABLE
            raise UserError(f"{place}: a key must be at least {SHORTEST} ASCII characters without spaces")
    return Keys(keys) if keys else None


def lines_of(path):
    """The keys in a file. Raises UserError."""
    try:
        lines = Path(path).read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api_key_file {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
