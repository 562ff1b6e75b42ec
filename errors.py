"""Mistakes of a user: each told in one line on stderr, with exit code 2."""

import sys
from contextlib import contextmanager

USAGE_ERROR = 2


class UserError(ValueError):
    """Something the user can mend. The message is one line: what, where, what to do."""


@contextmanager
def one_line_errors():
    """While this lasts, a UserError ends the program with its message on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        print("error: " + " ".join(str(error).splitlines()), file=sys.stderr, flush=True)
        raise SystemExit(USAGE_ERROR) from None
