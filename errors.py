"""Mistakes of a user: each told in one line on stderr, with exit code 2."""

import os
import sys
from contextlib import contextmanager

USAGE_ERROR = 2


class UserError(ValueError):
    """Something the user can mend. The message is one line: what, where, what to do."""


@contextmanager
def one_line_errors():
    """While this lasts, a UserError ends the program with its message on stderr and exit code 2.

    Whatever ends a rank of a launched job, the reason is told where the job was started, too.
    """
    try:
        yield
    except UserError as error:
        line = "error: " + " ".join(str(error).splitlines())
        print(line, file=sys.stderr, flush=True)
        tell_launcher(line)
        raise SystemExit(USAGE_ERROR) from None
    except Exception as error:
        tell_launcher(f"{type(error).__name__}: {error}")
        raise


def tell_launcher(line):
    """Write a line to the screen of paddle.distributed.launch, which shows there what its first rank says alone.

    Its standard error is that of this process's parent. Where it cannot be opened, the log of this rank has to do.
    """
    rank = os.environ.get("PADDLE_TRAINER_ID", "0")
    if rank == "0":
        return
    try:
        with open(f"/proc/{os.getppid()}/fd/2", "a", encoding="utf8") as screen:
            screen.write(f"rank {rank}: {' '.join(line.splitlines())}\n")
    except OSError:
        pass
