"""What becomes of one request to a server: read, checked, decoded, answered whole or as events, counted."""

import asyncio
import time
import uuid
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from glm.inference.stops import Stops
from glm.serving.connections import Connections
from glm.serving.engine import Job, NotAccepting
from glm.serving.forms import Streams, by_prompts, error_content, finished
from glm.serving.inbox import NOTHING, Inbox
from glm.serving.monitoring import Monitor
from glm.serving.origins import Origins
from glm.serving.requests import Refusal, parse_json

# What logs call a request whose client went away; nobody receives it.
CLIENT_GONE = 499
# How long a client may take to read what is ready for it, in seconds.
READING_GRACE = 10.0
# Seconds after which a stream that has nothing to say sends a comment: proxies close connections that say nothing, some
# after 15 s.
COMMENT_AFTER = 10.0
COMMENT = b": nothing new yet\n\n"
REQUEST_ID = "X-Request-Id"
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

    engine: engine.Engine. catalogue: catalogue.Catalogue. kinds: what the page offers, of ask, chat and pairs, what the
    model has learnt first. max_bytes: of a body. max_requests: waiting
    or decoded at once. timeout: seconds that a request may take; body_timeout: that its body may take; comment_after:
    that a stream may be silent. connections: connections.Connections. origins: origins.Origins. keys: keys.Keys, None
    where all may ask.
    """

    def __init__(
        self,
        engine,
        catalogue,
        *,
        kinds=("ask", "chat"),
        max_bytes,
        max_requests,
        timeout,
        body_timeout=30.0,
        comment_after=COMMENT_AFTER,
        connections=None,
        origins=None,
        keys=None,
    ):
        self.connections = connections or Connections(1024, 512, 10.0, 15.0)
        self.origins, self.keys = origins or Origins(), keys
        self.engine, self.catalogue, self.kinds = engine, catalogue, kinds
        self.max_bytes, self.max_requests, self.timeout = max_bytes, max_requests, timeout
        self.body_timeout, self.comment_after = min(body_timeout, timeout), comment_after
        self.open, self.lock = set(), None
        self.monitor = engine.monitor = Monitor(lambda: engine.queue_length, lambda: len(self.open))

    @property
    def tokenizer(self):
        """The model's tokenization.Tokenizer."""
        return self.catalogue.base.offer.tokenizer

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


class BoundedRequest(Request):
    """A request whose body is JSON of at most service.max_bytes, there within service.body_timeout."""

    def __init__(self, scope, receive, service):
        super().__init__(scope, receive)
        self.service, self.content = service, None

    async def body(self):
        """The body, which json() gives. Raises Refusal."""
        if self.content is None:
            try:
                body = await asyncio.wait_for(read_body(self, self.service.max_bytes), self.service.body_timeout)
            except asyncio.TimeoutError:
                told = f"the body took more than {self.service.body_timeout:g} s to arrive"
                raise Refusal(408, told) from None
            self.content = [await asyncio.to_thread(parse_json, body)]
        return b"JSON"

    async def json(self):
        """What the body says. Raises Refusal."""
        await self.body()
        return self.content[0]


class Exchange:
    """One request for texts, from its arrival to its end. All that can happen to it comes through its inbox."""

    def __init__(self, service, request):
        self.service, self.request = service, BoundedRequest(request.scope, request.receive, service)
        self.started = time.monotonic()
        self.id = uuid.uuid4().hex
        self.inbox = Inbox()
        self.jobs, self.helpers, self.ended = [], [], False

    def begin(self):
        """Begin, where requests are accepted. Raises Refusal."""
        self.service.check_admits()
        self.helpers.append(asyncio.get_running_loop().call_later(self.service.timeout, self.inbox.put, "late"))

    async def respond(self, model, prepare, form_of):
        """The response. model: the name that the request has for it, or None. prepare: from its requests.Offer the
        requests.PromptRequest of what was asked; raises Refusal. form_of: from that, this request's id and the model's
        name the form of the answer, such as forms.GenerateForm. Raises Refusal."""
        entry = self.service.catalogue.of(model)
        # Cutting a long prompt to its tokens would keep the loop from all others.
        asked = await asyncio.to_thread(prepare, entry.offer)
        # Not before: a body that never ends is to keep nobody out.
        self.service.check_admits()
        self.service.open.add(self)
        if self.request.client:
            self.service.connections.answering(tuple(self.request.client))
        form = form_of(asked, self.id, entry.name)
        self.submit(asked, entry.adapter)
        # The body is read: what is received from now on is the client's leaving.
        self.helpers.append(asyncio.create_task(self.watch_client()))
        if asked.stream:
            return EventStream(self, asked, form)
        results = {number: texts async for news in self.events() for number, texts in news.done.items()}
        async with self.service.turn():
            answers = by_prompts(asked, results)
            answers = [[finished(text, self.service.tokenizer, asked.config) for text in texts] for texts in answers]
            content = form.whole(answers)
        self.end(200)
        return JSONResponse(content, headers={REQUEST_ID: self.id})

    def submit(self, asked, adapter):
        """Hand the prompts to the engine, for an adapter of this number. Raises Refusal."""

        def notifier(number):
            return lambda kind, value: self.inbox.put(kind, number, value)

        for row, encoded in enumerate(asked.encoded):
            for copy in range(asked.copies):
                number = row * asked.copies + copy
                self.jobs.append(job_of(encoded, number, asked, adapter, notifier(number), self.service.tokenizer))
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

    async def frames(self, asked, form):
        """The server-sent events of a streamed answer, as bytes, and comments while there are none; an error is the
        last of them."""
        streams = Streams(asked, self.service.tokenizer)
        results, after, sent = {}, self.service.comment_after, time.monotonic()
        try:
            if begin := form.begin():
                yield begin
            async for news in self.events(after):
                async with self.service.turn():
                    content = b"".join(form.piece(*piece) for piece in streams.add(news, results))
                # What comes need not be whole characters yet.
                if content or news == NOTHING or time.monotonic() - sent >= after:
                    yield content or COMMENT
                    sent = time.monotonic()
            async with self.service.turn():
                content = form.end(by_prompts(asked, results))
            self.end(200)
            yield content
        except Refusal as refusal:
            self.end(refusal.status)
            yield form.failure(error_content(refusal.status, refusal.message))

    def end(self, status):
        """Leave: nothing is decoded for this request any more, and its outcome is counted. Later calls do nothing."""
        if self.ended:
            return
        self.ended = True
        for work in (*self.jobs, *self.helpers):
            work.cancel()
        self.service.open.discard(self)
        self.service.monitor.request_ended(status, time.monotonic() - self.started)


def job_of(encoded, number, asked, adapter, notify, tokenizer):
    """The engine.Job of a PromptRequest's prompt, which has this number among what is decoded for it."""
    beams = asked.config.num_beams > 1
    stops = Stops(tokenizer, asked.config.stop) if asked.config.stop and not beams else None
    return Job(encoded, asked.job_config, number, notify, asked.stream, adapter, stops)


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

    def __init__(self, exchange, asked, form):
        super().__init__(None, media_type=form.media_type)
        self.exchange, self.asked, self.form = exchange, asked, form
        # No length: the end of the stream is not known yet. And proxies are not to collect it.
        caching = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
        headers = {"content-type": self.media_type, **caching, REQUEST_ID.lower(): exchange.id}
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
        async for content in self.exchange.frames(self.asked, self.form):
            await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
