"""Prompts of many clients → a decoder → pieces of text: a queue, and the one thread that owns the model. No HTTP.

Which prompts are decoded together is up to what the thread has loaded: continuous.Continuous or closed.Closed. Nothing
waits for a timer.
"""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from glm.data import examples

log = logging.getLogger(__name__)


class NotAccepting(Exception):
    """The engine takes no prompts now: it is "loading", "stopping" or has "failed" (its first argument)."""


@dataclass(eq=False)
class Job:
    """A prompt to be decoded.

    encoded: examples.Encoded. config: GenerationConfig; without beams of one text. row: the number that its random
    draws depend on.
    notify(kind, value): called by the engine's thread: ("piece", its id) for each piece of a text without beams if
        wants_pieces, perhaps but the last, then once ("done", continuous.Texts) or ("failed", exception).
        After cancel() nothing is called any more, but for what is being called just then.
    adapter: the number of the adapter that it is decoded with, 0 without one.
    ends_with(piece): where a text may end before its end token, such as at a stop string: whether it does.
    arrived, newest: when the prompt has come, and its newest piece, as time.monotonic() has it.
    """

    encoded: examples.Encoded
    config: object
    row: int
    notify: object
    wants_pieces: bool = False
    adapter: int = 0
    ends_with: object = None
    settled: bool = False
    arrived: float = field(default_factory=time.monotonic)
    newest: float | None = None

    @property
    def tokens(self):
        """Tokens that the prompt takes while it is decoded, as (source, new)."""
        return len(self.encoded.source_ids), self.config.new_tokens_a_prompt

    def cancel(self):
        """Nobody waits for the text any more."""
        self.settled = True

    def piece(self, piece):
        """Take a piece: whether the text ends with it."""
        if self.wants_pieces:
            self.tell("piece", piece)
        return self.ends_with is not None and self.ends_with(piece)

    def settle(self, kind, value):
        """Tell the outcome, once."""
        if not self.settled:
            self.settled = True
            self.tell(kind, value)

    def tell(self, kind, value):
        """Call notify(). Who asked may be gone, with the loop that listened: that is no failure of the decoding."""
        try:
            self.notify(kind, value)
        except RuntimeError:
            self.settled = True


class Engine:
    """Decodes jobs in a thread of its own.

    load() → Continuous or Closed; it and what it gives are called in that thread. monitor: monitoring.Monitor.
    """

    def __init__(self, load, monitor=None):
        self.load, self.monitor = load, monitor
        self.waiting, self.running = deque(), []
        self.changed = threading.Condition()
        self.decoding, self.failure, self.logged = None, None, None
        self.stopping, self.closed = False, False
        self.thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def state(self):
        """ "loading", "ok", "stopping" or "failed"."""
        if self.failure is not None:
            return "failed"
        return "stopping" if self.stopping else "ok" if self.decoding else "loading"

    @property
    def queue_length(self):
        """How many prompts wait to be decoded."""
        return len(self.waiting)

    @property
    def adapters(self):
        """Numbers of the adapters that something waits for, or is being decoded with."""
        with self.changed:
            return {job.adapter for job in (*self.waiting, *self.running)}

    def start(self):
        """Load the model and then decode, in the engine's thread."""
        self.thread.start()

    def check_accepting(self):
        """Raise NotAccepting unless prompts are accepted."""
        if self.state != "ok":
            raise NotAccepting(self.state)

    def submit(self, jobs):
        """Queue jobs, all or none. Raises NotAccepting."""
        with self.changed:
            self.check_accepting()
            self.waiting.extend(jobs)
            self.changed.notify()

    def stop(self):
        """Accept nothing new; what was accepted is finished."""
        with self.changed:
            self.stopping = True

    def close(self, timeout):
        """End the thread; what waits or runs is cancelled. Returns whether it has ended within `timeout` seconds."""
        with self.changed:
            self.stopping = self.closed = True
            for job in [*self.waiting, *self.running]:
                job.cancel()
            self.changed.notify()
        self.thread.join(timeout)
        return not self.thread.is_alive()

    def _work(self):
        """What the thread does. An error of the decoder is the outcome of its jobs alone; what is no error but the wish
        to end the thread (SystemExit, KeyboardInterrupt) goes through."""
        try:
            self.decoding = self.load()
            while (newcomers := self._next()) is not None:
                if self.monitor is not None:
                    self._count(newcomers)
                self.decoding.round(newcomers, self._tell)
        except BaseException as error:
            self._fail(error)

    def _count(self, newcomers):
        """Count a round."""
        self.monitor.stepped(len(self.running))
        if newcomers:
            now = time.monotonic()
            self.monitor.batch_started([now - job.arrived for job in newcomers])

    def _fail(self, error):
        """Take an error for the end of this engine: what waits or runs has failed, and nothing is accepted."""
        with self.changed:
            self.failure = error
            jobs = [*self.running, *self.waiting]
            self.running, self.waiting = [], deque()
        for job in jobs:
            job.settle("failed", error)

    def _next(self):
        """The jobs that join at the next round, waiting where there is nothing to do; None when the engine is
        closed."""
        with self.changed:
            while not self.closed:
                newcomers = self.decoding.take(self.waiting)
                self.running = [*self.decoding.running, *newcomers]
                if self.running:
                    return newcomers
                self.changed.wait()
        return None

    def _tell(self, job, kind, value):
        """Pass on what comes of a job; of a piece, whether the text ends with it."""
        if job.settled:
            return False
        if kind == "piece":
            if self.monitor is not None:
                now = time.monotonic()
                self.monitor.token_came(now - (job.newest or job.arrived), job.newest is None)
                job.newest = now
            return job.piece(value)
        if kind == "failed" and value is not self.logged:
            # All prompts that are decoded together have the same.
            self.logged = value
            log.error("prompts could not be decoded", exc_info=value)
        if kind == "done" and self.monitor is not None:
            self.monitor.prompt_answered(sum(len(text.ids) for text in value))
        return job.settle(kind, value)
