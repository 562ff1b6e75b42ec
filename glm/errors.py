"""What ends a program: a user's mistake (exit code 2), a run that cannot go on (1), a signal (128 + its number); each
told in one line on stderr."""

import atexit
import os
import re
import signal
import stat
import sys
from contextlib import contextmanager, suppress

from glm.texts import translated

RUN_ERROR, USAGE_ERROR = 1, 2
# Modules of this project: one that is missing is a fault of its own.
OWN = ("glm", "data", "utils", "tests")
# Exit codes that this process has chosen so far, for leave_at_once().
CHOSEN = []


# What a terminal obeys instead of showing it, and what ends a line or turns its direction in a log.
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text):
    """A text in one line, with what a terminal would obey written as escapes: data and names may hold anything."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def joined(text):
    """The lines of a text as one, printable()."""
    return printable(" ".join(str(text).splitlines()))


def printable_lines(text):
    """A text of several lines, each of them printable()."""
    return "\n".join(map(printable, str(text).split("\n")))


def printable_json(text):
    """A JSON text in one line that says the same and that no terminal obeys."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class UserError(ValueError):
    """Something the user can mend. The message is one line: what, where, what to do."""

    def __init__(self, message=""):
        super().__init__(joined(message))


class RunError(RuntimeError):
    """A run cannot go on, whatever the user asked for. The message is one line: what, where, what to do."""

    def __init__(self, message=""):
        super().__init__(joined(message))


class Interrupted(Exception):
    """A signal ended the run in good order. The message is one line: what was saved, how to go on."""

    def __init__(self, number, message):
        super().__init__(message)
        self.number = number


def one_line(error):
    """What an error says, in one line."""
    return printable(" ".join(str(error).split())) or type(error).__name__


@contextmanager
def quiet_at_a_closed_pipe():
    """Context that ends the program without a word, with the code that a shell gives SIGPIPE, if nobody reads what it
    says any more (`| head`)."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        say_no_more(sys.stdout)
        say_no_more(sys.stderr)
        raise ended(128 + signal.SIGPIPE) from None


def say_no_more(stream):
    """Have what is still written to a stream go nowhere, if it is a pipe: its reader may have gone."""
    with suppress(OSError, ValueError):
        if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


@contextmanager
def one_line_errors():
    """While this lasts, an error of the kinds above ends the program with its message on stderr and its exit code.

    Whatever ends a rank of a launched job, the reason is told where the job was started, too.
    """
    try:
        with quiet_at_a_closed_pipe():
            yield
    except (UserError, RunError) as error:
        tell(f"error: {error}")
        raise ended(USAGE_ERROR if isinstance(error, UserError) else RUN_ERROR) from None
    except Interrupted as interruption:
        tell(f"{signal.Signals(interruption.number).name}: {interruption}")
        raise ended(128 + interruption.number) from None
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in OWN or not missing:
            raise
        tell(f"error: {without_module(missing)}")
        raise ended(USAGE_ERROR) from None
    except OSError as error:
        if error.errno is None:
            raise
        # A disk that is full or gone, a directory that cannot be written: nothing that a traceback would explain.
        place = f"{error.filename}: " if error.filename else ""
        tell(f"error: {printable(place)}{error.strerror or error}")
        raise ended(RUN_ERROR) from None
    except KeyboardInterrupt:
        tell("SIGINT: interrupted")
        raise ended(128 + signal.SIGINT) from None
    except Exception as error:
        tell_launcher(f"{type(error).__name__}: {error}")
        raise


def without_module(name):
    """What to tell of a package that this Python does not have."""
    root = os.path.relpath(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    there = "" if root == "." else f" in {root}"
    python = os.path.join(*([] if root == "." else [root]), ".venv", "bin", "python")
    version = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.executable},"
    return f"{version} has no module {name!r}: run make setup{there}, then {python} {' '.join(sys.argv[:1])} …"


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


def say(line):
    """Write a line to stdout, in the reader's language: what came of a command."""
    print(printable_lines(translated(str(line))), flush=True)


def note(line):
    """Write a line to stderr, in the reader's language: what is good to know of a run."""
    print(printable_lines(translated(str(line))), file=sys.stderr, flush=True)


def tell(line):
    """Write why a program ends to stderr, in the reader's language, and where the job was started."""
    with suppress(BrokenPipeError):
        note(line)
    tell_launcher(line)


def warn(line):
    """Write a warning to stderr, in the reader's language."""
    note(f"warning: {joined(line)}")


def tell_launcher(line):
    """Write a line to the screen of paddle.distributed.launch, which shows there what its first rank says alone.

    Its standard error is that of this process's parent. Where it cannot be opened, the log of this rank has to do.
    """
    rank = os.environ.get("PADDLE_TRAINER_ID", "0")
    if rank == "0":
        return
    try:
        with open(f"/proc/{os.getppid()}/fd/2", "a", encoding="utf8") as screen:
            screen.write(f"{translated(f'rank {rank}: {joined(line)}')}\n")
    except OSError:
        pass
