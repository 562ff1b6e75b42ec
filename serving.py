"""An engine over HTTP: a page, questions as JSON or as server-sent events, health and metrics."""

import asyncio
import json
import logging
import os
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from batching_engine import Job, NotAccepting
from errors import RunError
from monitoring import Monitor
from prompt_requests import Refusal, read_request
from stopping import ECHO_SECONDS
from tokenization import TextStream

log = logging.getLogger(__name__)

WEB = Path(__file__).resolve().parent / "web"
PAGES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
# What logs call a request whose client went away; nobody receives it.
CLIENT_GONE = 499
# How often the server looks whether it can stop, and how long a client may take to read what is ready for it; seconds.
LOOK_EVERY, READING_GRACE = 0.05, 10.0
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


def error_response(status, message, retry_after=None):
    """The response for an error."""
    headers = {"Retry-After": str(retry_after)} if retry_after else None
    return JSONResponse(error_content(status, message), status, headers)


def make_app(service):
    """The FastAPI app of a Service."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/generate")
    async def generate(request: Request):
        exchange = Exchange(service, request)
        try:
            return await exchange.respond()
        except Refusal as refusal:
            exchange.end(refusal.status)
            return error_response(refusal.status, refusal.message, refusal.retry_after)
        except ClientDisconnect:
            exchange.end(CLIENT_GONE)
            return error_response(CLIENT_GONE, "the client has gone")
        except BaseException:
            exchange.end(500)
            raise

    @app.get("/healthz")
    async def health():
        state = service.engine.state
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def metrics():
        return PlainTextResponse(service.monitor.text(), media_type="text/plain; version=0.0.4")

    for path, name in PAGES.items():
        app.get(path)(page(WEB / name))

    @app.exception_handler(HTTPException)
    async def no_such_thing(request, error):
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.method} {request.url.path[:100]}: {error.detail}" + (f"; use {allowed}" if allowed else "")
        return JSONResponse(error_content(error.status_code, message), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request, error):
        return error_response(500, "something in the server broke; its log says what")

    return app


def page(path):
    """A function that answers with a file."""

    async def send_file():
        return FileResponse(path, headers=PAGE_HEADERS)

    return send_file


class Server(uvicorn.Server):
    """A server that on the first signal refuses what is new; a second one ends the process at once. What comes within
    ECHO_SECONDS is the same request again."""

    def __init__(self, service):
        # Broken requests are told to those who send them; here they would fill the log.
        quiet = {"log_config": None, "log_level": "error", "access_log": False}
        super().__init__(uvicorn.Config(make_app(service), lifespan="off", ws="none", **quiet))
        self.engine, self.signalled = service.engine, None

    def handle_exit(self, sig, frame):
        """Obey a signal."""
        if self.signalled is None:
            self.signalled = time.monotonic()
            os.write(2, b"stopping: what was accepted is finished; once more stops at once\n")
            self.engine.stop()
        elif time.monotonic() - self.signalled > ECHO_SECONDS:
            os._exit(128 + sig)


async def serve(service, listener, stop_timeout):
    """Serve on a listening socket until a signal comes, then finish what was accepted, for stop_timeout seconds.

    Raises what kept the model from being loaded, and RunError if something was left unfinished.
    """
    server = Server(service)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    service.engine.start()
    unfinished = 0
    while not running.done():
        late = server.signalled is not None and time.monotonic() - server.signalled > stop_timeout
        if late and service.open:
            unfinished += len(service.open)
            service.abandon()
        # Who does not read what is sent is not waited for, either.
        server.force_exit = late and time.monotonic() - server.signalled > stop_timeout + READING_GRACE
        if service.engine.failure or (server.signalled is not None and not service.open):
            server.should_exit = True
        await asyncio.sleep(LOOK_EVERY)
    await running
    if service.engine.failure:
        raise service.engine.failure
    if unfinished:
        raise RunError(f"{unfinished} requests were not finished within {stop_timeout:g} s of the signal")
