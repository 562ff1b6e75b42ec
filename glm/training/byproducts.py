"""Callbacks whose files are worth less than the run: they may fail, and they may hang."""

import copy
import queue
import threading

from paddlenlp.trainer import TrainerCallback

from glm.files.guarded import by_product

# Seconds that the end of a run waits for them.
PATIENCE = 10.0
# Events that may wait; of what comes faster, some are left out.
WAITING = 1000


class ByProduct(TrainerCallback):
    """Another callback, whose events happen in a thread, one after another: a full disk, a file system that does not
    answer, or the callback's own threads waiting for each other (VisualDL's do, when their disk is full) stop nothing
    but it. It changes neither arguments nor control. warn: called with a line when it fails, once.
    """

    def __init__(self, inner, warn):
        self.inner, self.warn, self.name = inner, warn, type(inner).__name__.removesuffix("Callback")
        self.events, self.thread = queue.Queue(WAITING), None

    def run(self):
        """Have the events happen that were noted, until None comes, or one fails."""
        while (event := self.events.get()) is not None:
            name, arguments, settings = event
            failed = []
            with by_product(self.name, failed.append):
                getattr(self.inner, name)(*arguments, **settings)
            if failed:
                self.inner = None
                self.warn(f"{failed[0]}; the run goes on without it")
                return

    def note(self, name, args, state, control, settings):
        """Have an event happen as things are now."""
        if self.inner is None:
            return
        if self.thread is None:
            self.thread = threading.Thread(target=self.run, name=self.name, daemon=True)
            self.thread.start()
        kept = {"logs": copy.copy(settings.get("logs")), "model": settings.get("model")}
        try:
            self.events.put_nowait((name, (args, copy.copy(state), copy.copy(control)), kept))
        except queue.Full:
            self.inner = None
            self.warn(f"{self.name} does not keep up; the run goes on without it")

    def on_train_begin(self, args, state, control, **settings):
        """Pass it on."""
        self.note("on_train_begin", args, state, control, settings)

    def on_log(self, args, state, control, **settings):
        """Pass it on."""
        self.note("on_log", args, state, control, settings)

    def on_train_end(self, args, state, control, **settings):
        """Pass it on, and wait for the end a while."""
        self.note("on_train_end", args, state, control, settings)
        if self.thread is None or self.inner is None:
            return
        self.events.put(None)
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            self.warn(f"{self.name} does not end; the run goes on without it")
        self.thread = None
