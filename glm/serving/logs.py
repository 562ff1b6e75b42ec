"""What a server writes into its log: lines that no terminal obeys, and not more of them than a disk can bear."""

import logging
import sys
import time

from glm.errors import printable_lines
from glm.texts import translated

# So many entries in so many seconds, and no more.
MOST, SECONDS = 20, 10.0


class PlainFormatter(logging.Formatter):
    """Entries in printable lines."""

    def format(self, record):
        """The entry, its message in the reader's language; of a traceback, each line."""
        record.msg, record.args = translated(record.getMessage()), None
        return printable_lines(super().format(record))


class Throttle(logging.Filter):
    """Lets MOST entries pass in SECONDS, and says how many it has kept back when the next ones may."""

    def __init__(self, clock=time.monotonic):
        super().__init__()
        self.clock, self.began, self.passed, self.kept_back = clock, clock(), 0, 0

    def filter(self, record):
        """Whether an entry passes."""
        if self.clock() - self.began > SECONDS:
            if self.kept_back:
                record.msg, record.args = f"{record.getMessage()} ({self.kept_back} entries before it left out)", None
            self.began, self.passed, self.kept_back = self.clock(), 0, 0
        if self.passed < MOST:
            self.passed += 1
            return True
        self.kept_back += 1
        return False


def set_up():
    """Have all logs of this process go to stderr so."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(Throttle())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
