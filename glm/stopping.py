"""Signals that ask a run to stop: noticed at once, obeyed when its step is finished."""

import ctypes
import os
import signal
import sys
import threading
import time

from glm.texts import translated

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A terminal's Ctrl-C may come twice. To a launched process the launcher repeats a signal as soon as another one has
# ended, and the kernel when the launcher has: while it saves. One that does not end is killed by the launcher.
ECHO_SECONDS, ECHO_SECONDS_LAUNCHED = 1.0, 60.0
# Of linux/prctl.h: which signal a process gets when its parent has died.
PR_SET_PDEATHSIG = 1


class StopSignals:
    """Context in which the first of SIGNALS is remembered (`received`, a number; `since`, by time.monotonic()) and a
    second one ends the process at once, with exit code 128 + its number. What comes within ECHO_SECONDS is the same
    request again.

    line: what the first one has written to stderr; {} in it is the signal's name. on_first: called then.
    """

    def __init__(self, line="{}: the step under way is finished and saved; once more stops at once", on_first=None):
        self.line, self.on_first = line, on_first
        self.received, self.since, self.previous = None, None, {}
        self.launched = "PADDLE_TRAINER_ID" in os.environ

    def __enter__(self):
        # Python lets the main thread alone have handlers.
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self.handle) for number in SIGNALS}
        if self.launched:
            stop_with_parent()
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            # None is one that was not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(self, number, frame):
        """Remember a signal, or obey at once."""
        if self.received is None:
            self.received, self.since = number, time.monotonic()
            # Not by print: what a handler interrupts may be printing.
            os.write(2, f"{translated(self.line.format(signal.Signals(number).name))}\n".encode())
            if self.on_first is not None:
                self.on_first()
        elif time.monotonic() - self.since > (ECHO_SECONDS_LAUNCHED if self.launched else ECHO_SECONDS):
            os._exit(128 + number)


def stop_with_parent():
    """Have this process get SIGTERM when its parent dies (Linux only): paddle.distributed.launch, when it is told to
    end by SIGTERM, may do so without a word to its ranks."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
