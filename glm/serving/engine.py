"""Prompts of many clients → batches → pieces of text: a queue, and the one thread that owns the model. No HTTP.

The thread takes whatever waits as soon as it is free, as many prompts as fit the budget of a batch, and decodes them
together; nothing waits for a timer. A prompt is answered when its own text ends, not when its batch does.
"""

import logging
import threading
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from glm.data import examples

log = logging.getLogger(__name__)


class NotAccepting(Exception):
    """The engine takes no prompts now: it is "loading", "stopping" or has "failed" (its first argument)."""


class BatchOver(Exception):
    """Raised inside a decoding to leave it: nobody waits for what it would still produce."""


@dataclass(eq=False)
class Job:
    """A prompt to be decoded.

    encoded: examples.Encoded. config: GenerationConfig. row: the number that its random draws depend on.
    notify(kind, value): called by the engine's thread: ("piece", its id) for each piece but the last if wants_pieces,
        then once ("done", ids) or ("failed", exception); ids is a list that ends with the end token if the text has
        ended.
        After cancel() nothing is called any more, but for what is being called just then.
    """

    encoded: examples.Encoded
    config: object
    row: int
    notify: object
    wants_pieces: bool = False
    ids: list = field(default_factory=list)
    settled: bool = False

    @property
    def tokens(self):
        """Tokens that the prompt's row takes in a batch, as (source, new)."""
        return len(self.encoded.source_ids), self.config.new_tokens_a_prompt

    @property
    def kind(self):
        """What is equal for prompts that can be decoded together.

        Without beams a text is the beginning of the longer one that a higher limit gives, so limits may differ.
        """
        return self.config if self.config.num_beams > 1 else replace(self.config, max_new_tokens=2**31)

    def cancel(self):
        """Nobody waits for the text any more."""
        self.settled = True

    def settle(self, kind, value):
        """Tell the outcome, once."""
        if not self.settled:
            self.settled = True
            self.tell(kind, value)

    def tell(self, kind, value):
        """Call notify(). Who asked may be gone, with the loop that listened: that is no failure of the batch."""
        try:
            self.notify(kind, value)
        except RuntimeError:
            self.settled = True


class Engine:
    """Decodes jobs, batch by batch, in a thread of its own.

    load() → decode(prompts, config, rows, on_token) → ids [batch, new]; both are called in that thread.
    prompts: as data.collate_prompts() gives them, padded with pad_id, and of each its max_new_tokens, int64 [batch].
    on_token: see search.Rules; with beams it is not called. end_id: the piece that ends a text.
    budget: most tokens that a batch may take, rows * (its longest source + new tokens); a single prompt may take more.
    monitor: monitoring.Monitor.
    """

    def __init__(self, load, pad_id, end_id, budget, monitor=None):
        self.load, self.budget, self.monitor = load, budget, monitor
        self.pad_id, self.end_id = pad_id, end_id
        self.waiting, self.running = deque(), []
        self.changed = threading.Condition()
        self.decode, self.failure = None, None
        self.stopping, self.closed = False, False
        self.thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def state(self):
        """ "loading", "ok", "stopping" or "failed"."""
        if self.failure is not None:
            return "failed"
        return "stopping" if self.stopping else "ok" if self.decode else "loading"

    @property
    def queue_length(self):
        """How many prompts wait for a batch."""
        return len(self.waiting)

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
        """What the thread does."""
        try:
            self.decode = self.load()
            while batch := self._next_batch():
                self._run(batch)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error):
        """Take an error for the end of this engine: what waits or runs has failed, and nothing is accepted."""
        with self.changed:
            self.failure = error
            jobs = [*self.running, *self.waiting]
            self.running, self.waiting = [], deque()
        for job in jobs:
            job.settle("failed", error)

    def _next_batch(self):
        """The jobs of the next batch, waiting for one; empty when the engine is closed."""
        with self.changed:
            while True:
                self.waiting = deque(job for job in self.waiting if not job.settled)
                if self.closed:
                    return []
                if self.waiting:
                    self.running = take_batch(self.waiting, self.budget)
                    return self.running
                self.changed.wait()

    def _run(self, jobs):
        """Decode a batch and tell its outcome. An error of the decoder is the outcome of this batch alone; what is no
        error but the wish to end the thread (SystemExit, KeyboardInterrupt) goes through."""
        try:
            for job, ids in zip(jobs, self._decode(jobs), strict=True):
                self._finish(job, [int(piece) for piece in ids])
        except BatchOver:
            pass
        except Exception as error:
            log.exception("a batch of %d prompts could not be decoded", len(jobs))
            for job in jobs:
                job.settle("failed", error)
        with self.changed:
            self.running = []

    def _decode(self, jobs):
        """Ids [batch, new] of a batch; its pieces are told meanwhile."""
        if self.monitor is not None:
            self.monitor.batch_started(len(jobs))
        prompts = examples.collate_prompts([job.encoded for job in jobs], self.pad_id)
        longest = max((job.config for job in jobs), key=lambda config: config.max_new_tokens)
        # What decodes each prompt by a limit of its own does not go on with one whose limit has come.
        prompts["max_new_tokens"] = np.array([job.config.max_new_tokens for job in jobs], "int64")
        return self.decode(prompts, longest, [job.row for job in jobs], lambda *news: self._on_token(jobs, *news))

    def _on_token(self, jobs, numbers, pieces):
        """Pass the newest pieces on; finish those whose text or limit has ended. Raises BatchOver at the last."""
        for number, piece in zip(numbers.tolist(), pieces.tolist(), strict=True):
            job = jobs[number]
            if job.settled:
                continue
            job.ids.append(piece)
            if piece == self.end_id or len(job.ids) == job.config.max_new_tokens:
                self._finish(job, job.ids)
            elif job.wants_pieces:
                job.tell("piece", piece)
        if all(job.settled for job in jobs):
            raise BatchOver

    def _finish(self, job, ids):
        """Tell a job's text, a list of ids, without what follows its end."""
        if job.settled:
            return
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id) + 1]
        if self.monitor is not None:
            self.monitor.prompt_answered(len(ids))
        job.settle("done", ids)


def take_batch(waiting, budget):
    """Take the jobs of a batch out of a deque: the one that has waited longest, and of those after it all that can be
    decoded with it and fit, in their order."""
    batch, rest = [waiting.popleft()], deque()
    kind, (longest, new) = batch[0].kind, batch[0].tokens
    while waiting:
        job = waiting.popleft()
        widest, most = max(longest, job.tokens[0]), max(new, job.tokens[1])
        if job.kind == kind and (len(batch) + 1) * (widest + most) <= budget:
            batch.append(job)
            longest, new = widest, most
        else:
            rest.append(job)
    waiting.extend(rest)
    return batch
