"""What becomes of one request to a server: read, checked, decoded, answered whole or as events, counted."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

from starlette.responses import JSONResponse, Response

from glm.data.tokenization import TextStream
from glm.errors import printable_json
from glm.serving.connections import Connections
from glm.serving.engine import Job, NotAccepting
from glm.serving.inbox import NOTHING, Inbox
from glm.serving.monitoring import Monitor
from glm.serving.origins import Origins
from glm.serving.requests import Refusal, read_request

# What logs call a request whose client went away; nobody receives it.
CLIENT_GONE = 499
# How long a client may take to read what is ready for it, in seconds.
READING_GRACE = 10.0
# Seconds after which a stream that has nothing to say sends a comment: proxies close connections that say nothing.
COMMENT_AFTER = 15.0
COMMENT = b": nothing new yet\n\n"
# What ends a request before its answers are there: status and message, with the seconds it may take.
ENDINGS = {
    "gone": (CLIENT_GONE, "the client has gone"),
    "late": (504, "the answer took more than {:g} s"),
    "abandoned": (503, "the server stopped before the answer was finished"),
    "failed": (500, "the prompt could not be decoded; the server's log says why"),
}
STATES = {"loading": "the model is still being loaded", "stopping": "the server is stopping"}


class Service:
    """What all requests share.

    engine: engine.Engine. tokenizer: tokenization.Tokenizer. config: GenerationConfig of a request without
    options. limits: requests.Limits. max_bytes: of a body. max_requests: waiting or decoded at once. timeout: seconds
    that a request may take; body_timeout: that its body may take; comment_after: that a stream may be silent.
    connections: connections.Connections. origins:
    origins.Origins.
    """

    def __init__(
        self,
        engine,
        tokenizer,
        config,
        limits,
        *,
        max_bytes,
        max_requests,
        timeout,
        body_timeout=30.0,
        comment_after=COMMENT_AFTER,
        connections=None,
        origins=None,
    ):
        self.connections = connections or Connections(1024, 512, 10.0, 15.0)
        self.origins = origins or Origins()
        self.engine, self.tokenizer, self.config, self.limits = engine, tokenizer, config, limits
        self.max_bytes, self.max_requests, self.timeout = max_bytes, max_requests, timeout
        self.body_timeout, self.comment_after = min(body_timeout, timeout), comment_after
        self.open, self.lock = set(), None
        self.monitor = engine.monitor = Monitor(lambda: engine.queue_length, lambda: len(self.open))

    def check_admits(self):
        """Raise Refusal where no request is accepted now."""
        try:
            self.engine.check_accepting()
        except NotAccepting as error:
            raise unavailable(error) from None
        if len(self.open) >= self.max_requests:
            message = f"{len(self.open)} requests are being answered, which is all this server takes; try again"
            raise Refusal(429, message, retry_after=1)

    @asynccontextmanager
    async def turn(self):
        """Context in which one request alone makes texts of ids, once in a round of the loop: whoever asks for anything
        else waits for one of them and not for all."""
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            yield
            await asyncio.sleep(0)

    def abandon(self):
        """End all open requests without their answers."""
        for exchange in list(self.open):
            exchange.inbox.put("abandoned")


def unavailable(error):
    """The Refusal for a NotAccepting."""
    return Refusal(503, STATES.get(error.args[0], "the model could not be loaded"), retry_after=5)


class Exchange:
    """One request to /generate, from its arrival to its end. All that can happen to it comes through its inbox."""

    def __init__(self, service, request):
        self.service, self.request = service, request
        self.started = time.monotonic()
        self.inbox = Inbox()
        self.jobs, self.helpers, self.ended = [], [], False

    async def respond(self):
        """The response. Raises Refusal."""
        self.service.check_admits()
        self.helpers.append(asyncio.get_running_loop().call_later(self.service.timeout, self.inbox.put, "late"))
        asked = await self.read()
        # Not before: a body that never ends is to keep nobody out.
        self.service.check_admits()
        self.service.open.add(self)
        if self.request.client:
            self.service.connections.answering(tuple(self.request.client))
        self.submit(asked)
        # The body is read: what is received from now on is the client's leaving.
        self.helpers.append(asyncio.create_task(self.watch_client()))
        if asked.stream:
            return EventStream(self, asked)
        answers = {number: ids async for news in self.events() for number, ids in news.done.items()}
        async with self.service.turn():
            content = self.content(asked, answers)
        self.end(200)
        return JSONResponse(content)

    async def read(self):
        """The PromptRequest of the body. Raises Refusal."""
        service = self.service
        try:
            body = await asyncio.wait_for(read_body(self.request, service.max_bytes), service.body_timeout)
        except asyncio.TimeoutError:
            raise Refusal(408, f"the body took more than {service.body_timeout:g} s to arrive") from None
        # Cutting a long prompt to its tokens would keep the loop from all others.
        return await asyncio.to_thread(read_request, body, service.config, service.limits, service.tokenizer)

    def submit(self, asked):
        """Hand the prompts to the engine. Raises Refusal."""

        def notifier(number):
            return lambda kind, value: self.inbox.put(kind, number, value)

        self.jobs = [
            Job(encoded, asked.config, number, notifier(number), wants_pieces=asked.stream)
            for number, encoded in enumerate(asked.encoded)
        ]
        try:
            self.service.engine.submit(self.jobs)
        except NotAccepting as error:
            raise unavailable(error) from None

    async def watch_client(self):
        """Tell when the client has gone."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self.inbox.put("gone")

    async def events(self, seconds=None):
        """The inbox's News until all prompts are done, empty ones where nothing comes for so long. Raises Refusal."""
        left = len(self.jobs)
        while left:
            news = await self.inbox.news(seconds)
            if news.ending is not None:
                status, message = ENDINGS[news.ending]
                raise Refusal(status, message.format(self.service.timeout))
            left -= len(news.done)
            yield news

    async def frames(self, asked):
        """The server-sent events of a streamed answer, as bytes, and comments while there are none; an error is the
        last of them."""
        streams = [TextStream(self.service.tokenizer) for _ in self.jobs]
        answers, after, sent = {}, self.service.comment_after, time.monotonic()
        try:
            async for news in self.events(after):
                async with self.service.turn():
                    content = b"".join(piece_frames(streams, answers, news))
                # What comes need not be whole characters yet.
                if content or news == NOTHING or time.monotonic() - sent >= after:
                    yield content or COMMENT
                    sent = time.monotonic()
            async with self.service.turn():
                content = frame("done", self.content(asked, answers))
            self.end(200)
            yield content
        except Refusal as refusal:
            self.end(refusal.status)
            yield frame("error", error_content(refusal.status, refusal.message))

    def content(self, asked, answers):
        """The answer as JSON, from {number: ids}: of one prompt, or of all of a batch in their order."""
        decode = self.service.tokenizer.decode
        contents = [
            {
                "source": encoded.source,
                "prediction": decode(answers[number]),
                "tokens": len(answers[number]),
                "source_tokens": len(encoded.source_ids),
                "source_cut": encoded.source_cut,
                "unknown_characters": unknown,
            }
            for number, (encoded, unknown) in enumerate(zip(asked.encoded, asked.unknown, strict=True))
        ]
        return {"answers": contents} if asked.is_batch else contents[0]

    def end(self, status):
        """Leave: nothing is decoded for this request any more, and its outcome is counted. Later calls do nothing."""
        if self.ended:
            return
        self.ended = True
        for work in (*self.jobs, *self.helpers):
            work.cancel()
        self.service.open.discard(self)
        self.service.monitor.request_ended(status, time.monotonic() - self.started)


def piece_frames(streams, answers, news):
    """Frames of the pieces in News; what is done goes into answers, {number: ids}. streams: a TextStream for each
    prompt."""
    for number in news.pieces.keys() | news.done.keys():
        ids, whole = news.pieces.get(number, []), news.done.get(number)
        if whole is not None:
            # Of the last piece there is no other word.
            ids, answers[number] = whole[streams[number].count :], whole
        if piece := streams[number].add(ids, final=whole is not None):
            yield frame("piece", {"index": number, "text": piece})


async def read_body(request, max_bytes):
    """The body, at most max_bytes. Raises Refusal."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        # A page of another site can send other types without asking, and so use the server of whoever reads it.
        raise Refusal(415, "send JSON with the header Content-Type: application/json")
    message = f"the body is larger than {max_bytes} bytes"
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > max_bytes:
        raise Refusal(413, message)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise Refusal(413, message)
    return bytes(body)


class EventStream(Response):
    """Sends the frames of an Exchange as they come, and ends it, whatever happens."""

    def __init__(self, exchange, asked):
        super().__init__(None, media_type="text/event-stream; charset=utf-8")
        self.exchange, self.asked = exchange, asked
        # No length: the end of the stream is not known yet. And proxies are not to collect it.
        caching = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
        headers = {"content-type": self.media_type, **caching}
        self.raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope, receive, send):
        try:
            # A client that does not read keeps send() waiting.
            await asyncio.wait_for(self.send_all(send), self.exchange.service.timeout + READING_GRACE)
        except (OSError, asyncio.TimeoutError):
            self.exchange.end(CLIENT_GONE)
        finally:
            self.exchange.end(500)

    async def send_all(self, send):
        """Send the head, the frames and the end."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for content in self.exchange.frames(self.asked):
            await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def frame(event, content):
    """A server-sent event with JSON as its data, in one line, whatever its reader takes for the end of one."""
    return f"event: {event}\ndata: {printable_json(json.dumps(content, ensure_ascii=False))}\n\n".encode()


def error_content(status, message):
    """The JSON of an error."""
    return {"error": {"status": status, "message": message}}
