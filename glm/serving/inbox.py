"""What happens to a request, from the engine's thread to the loop that answers it: never more than one notice is under
way, however fast pieces come and however slowly they are sent."""

import asyncio
import threading
from typing import NamedTuple

# What ends a request, whatever else there is; the first of them counts.
ENDINGS = ("gone", "late", "abandoned", "failed")


class News(NamedTuple):
    """What has happened since the last time.

    ending: one of ENDINGS, or None. pieces: {number of the prompt: its newest ids}. done: {number: its texts}.
    """

    ending: str | None
    pieces: dict
    done: dict


NOTHING = News(None, {}, {})


class Inbox:
    """Collects what happens. Made in the loop that waits for it; put() may be called in any thread."""

    def __init__(self):
        self.loop, self.noticed = asyncio.get_running_loop(), asyncio.Event()
        self.lock, self.notice_sent = threading.Lock(), False
        self.endings, self.pieces, self.done = [], {}, {}

    def put(self, kind, number=None, value=None):
        """Note one of ENDINGS, a "piece" (value: its id) or "done" (value: the texts). Raises RuntimeError if the loop
        has ended."""
        with self.lock:
            if kind in ENDINGS:
                self.endings.append(kind)
            elif kind == "piece":
                self.pieces.setdefault(number, []).append(value)
            else:
                self.done[number] = value
            if self.notice_sent:
                return
            self.notice_sent = True
        self.loop.call_soon_threadsafe(self.noticed.set)

    async def news(self, seconds=None):
        """The next News, waiting for some; empty where none has come within so many seconds."""
        try:
            await asyncio.wait_for(self.noticed.wait(), seconds)
        except asyncio.TimeoutError:
            return NOTHING
        with self.lock:
            self.noticed.clear()
            self.notice_sent = False
            ending = min(self.endings, key=ENDINGS.index, default=None)
            news = News(ending, self.pieces, self.done)
            self.pieces, self.done = {}, {}
        return news
