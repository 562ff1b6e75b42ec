"""What ends a program: a user's mistake (exit code 2), a run that cannot go on (1), a signal (128 + its number); each
told in one line on stderr."""

import atexit
import os
import signal
import sys
from contextlib import contextmanager

RUN_ERROR, USAGE_ERROR = 1, 2
# Exit codes that this process has chosen so far, for leave_at_once().
CHOSEN = []


class UserError(ValueError):
    """Something the user can mend. The message is one line: what, where, what to do."""


class RunError(RuntimeError):
    """A run cannot go on, whatever the user asked for. The message is one line: what, where, what to do."""


class Interrupted(Exception):
    """A signal ended the run in good order. The message is one line: what was saved, how to go on."""

    def __init__(self, number, message):
        super().__init__(message)
        self.number = number


def one_line(error):
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def one_line_errors():
    """While this lasts, an error of the kinds above ends the program with its message on stderr and its exit code.

    Whatever ends a rank of a launched job, the reason is told where the job was started, too.
    """
    try:
        yield
    except (UserError, RunError) as error:
        tell("error: " + " ".join(str(error).splitlines()))
        raise ended(USAGE_ERROR if isinstance(error, UserError) else RUN_ERROR) from None
    except Interrupted as interruption:
        tell(f"{signal.Signals(interruption.number).name}: {interruption}")
        raise ended(128 + interruption.number) from None
    except KeyboardInterrupt:
        tell("SIGINT: interrupted")
        raise ended(128 + signal.SIGINT) from None
    except Exception as error:
        tell_launcher(f"{type(error).__name__}: {error}")
        raise


def ended(code):
    """The SystemExit of an exit code, which leave_at_once() will know."""
    CHOSEN.append(code)
    return SystemExit(code)


def end_without_destructors():
    """Have this rank of a launched job end at once when Python has nothing left to do.

    Otherwise destructors of paddle's connections run, and of four ranks the first one aborts in them every twenty times
    or so: the launcher then calls a job failed that has done all its work.
    """
    atexit.unregister(leave_at_once)
    atexit.register(leave_at_once)


def leave_at_once():
    """End this process with the exit code that it was to have: the chosen one, 1 after a traceback, else 0."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(CHOSEN[-1] if CHOSEN else RUN_ERROR if hasattr(sys, "last_type") else 0)


def tell(line):
    """Write a line to stderr, and where the job was started."""
    print(line, file=sys.stderr, flush=True)
    tell_launcher(line)


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
