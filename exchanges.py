"""What becomes of one request to a server: read, checked, decoded, answered whole or as events, counted."""

import asyncio
import json
import time

from starlette.responses import JSONResponse, Response

from batching_engine import Job, NotAccepting
from monitoring import Monitor
from prompt_requests import Refusal, read_request
from tokenization import TextStream

# What logs call a request whose client went away; nobody receives it.
CLIENT_GONE = 499
# How long a client may take to read what is ready for it, in seconds.
READING_GRACE = 10.0
STATES = {"loading": "the model is still being loaded", "stopping": "the server is stopping"}


class Service:
    """What all requests share.

    engine: batching_engine.Engine. tokenizer: tokenization.Tokenizer. config: GenerationConfig of a request without
    options. limits: prompt_requests.Limits. max_bytes: of a body. max_requests: being read, waiting or decoded at once.
    timeout: seconds that a request may take.
    """

    def __init__(self, engine, tokenizer, config, limits, *, max_bytes, max_requests, timeout):
        self.engine, self.tokenizer, self.config, self.limits = engine, tokenizer, config, limits
        self.max_bytes, self.max_requests, self.timeout = max_bytes, max_requests, timeout
        self.open = set()
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

    def abandon(self):
        """End all open requests without their answers."""
        for exchange in list(self.open):
            exchange.post("abandoned")


def unavailable(error):
    """The Refusal for a NotAccepting."""
    return Refusal(503, STATES.get(error.args[0], "the model could not be loaded"), retry_after=5)


class Exchange:
    """One request to /generate, from its arrival to its end.

    All that can happen to it comes as events (number of the prompt, kind, value) through one queue: what the engine
    tells of its jobs, and "late", "gone" and "abandoned".
    """

    def __init__(self, service, request):
        self.service, self.request = service, request
        self.started = time.monotonic()
        self.loop, self.queue = asyncio.get_running_loop(), asyncio.Queue()
        self.jobs, self.helpers, self.ended = [], [], False

    async def respond(self):
        """The response. Raises Refusal."""
        self.service.check_admits()
        self.service.open.add(self)
        self.helpers.append(self.loop.call_later(self.service.timeout, self.post, "late"))
        asked = await self.read()
        self.submit(asked)
        # The body is read: what is received from now on is the client's leaving.
        self.helpers.append(asyncio.create_task(self.watch_client()))
        if asked.stream:
            return EventStream(self, asked)
        answers = {number: ids async for number, kind, ids in self.events() if kind == "done"}
        self.end(200)
        return JSONResponse(self.content(asked, answers))

    def post(self, kind, number=None, value=None):
        """Make something happen to this request; from the loop's thread."""
        self.queue.put_nowait((number, kind, value))

    async def read(self):
        """The PromptRequest of the body. Raises Refusal."""
        service = self.service
        try:
            body = await asyncio.wait_for(read_body(self.request, service.max_bytes), service.timeout)
        except asyncio.TimeoutError:
            raise Refusal(408, f"the body took more than {service.timeout:g} s to arrive") from None
        # Cutting a long prompt to its tokens would keep the loop from all others.
        return await asyncio.to_thread(read_request, body, service.config, service.limits, service.tokenizer)

    def submit(self, asked):
        """Hand the prompts to the engine. Raises Refusal."""

        def notifier(number):
            return lambda kind, value: self.loop.call_soon_threadsafe(self.post, kind, number, value)

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
        self.post("gone")

    async def events(self):
        """(number, "piece" or "done", ids) of the prompts until all are done. Raises Refusal."""
        left = len(self.jobs)
        while left:
            number, kind, value = await self.queue.get()
            if kind == "late":
                raise Refusal(504, f"the answer took more than {self.service.timeout:g} s")
            if kind == "gone":
                raise Refusal(CLIENT_GONE, "the client has gone")
            if kind == "abandoned":
                raise Refusal(503, "the server stopped before the answer was finished")
            if kind == "failed":
                raise Refusal(500, "the prompt could not be decoded; the server's log says why")
            left -= kind == "done"
            yield number, kind, value

    async def frames(self, asked):
        """The server-sent events of a streamed answer, as bytes; an error is the last of them."""
        streams = [TextStream(self.service.tokenizer) for _ in self.jobs]
        answers = {}
        try:
            async for number, kind, ids in self.events():
                piece = streams[number].piece(ids, final=kind == "done")
                if piece:
                    yield frame("piece", {"index": number, "text": piece})
                if kind == "done":
                    answers[number] = ids
            self.end(200)
            yield frame("done", self.content(asked, answers))
        except Refusal as refusal:
            self.end(refusal.status)
            yield frame("error", error_content(refusal.status, refusal.message))

    def content(self, asked, answers):
        """The answer as JSON, from {number: ids}: of one prompt, or of all of a batch in their order."""
        decode = self.service.tokenizer.decode
        contents = [
            {"source": encoded.example.source, "prediction": decode(answers[number]), "tokens": len(answers[number])}
            for number, encoded in enumerate(asked.encoded)
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
        headers = {"content-type": self.media_type, "cache-control": "no-store", "x-accel-buffering": "no"}
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
    """A server-sent event with JSON as its data, in one line."""
    return f"event: {event}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def error_content(status, message):
    """The JSON of an error."""
    return {"error": {"status": status, "message": message}}
