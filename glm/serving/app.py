"""An engine over HTTP: a page, questions as JSON or as server-sent events, health and metrics."""

import asyncio
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

from glm.errors import RunError
from glm.serving.connections import protocol
from glm.serving.exchanges import CLIENT_GONE, READING_GRACE, Exchange, error_content
from glm.serving.requests import Refusal
from glm.stopping import StopSignals

WEB = Path(__file__).resolve().parent / "web"
PAGES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
NOT_KEPT = {"Cache-Control": "no-store"}
# Of what is only read, monitors ask for the head alone.
READING = ["GET", "HEAD"]
# How often the server looks whether it can stop, in seconds.
LOOK_EVERY = 0.05


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

    @app.api_route("/healthz", methods=READING)
    async def health():
        state = service.engine.state
        return JSONResponse({"status": state}, 200 if state == "ok" else 503, NOT_KEPT)

    @app.api_route("/metrics", methods=READING)
    async def metrics():
        return PlainTextResponse(service.monitor.text(), 200, NOT_KEPT, "text/plain; version=0.0.4")

    for path, name in PAGES.items():
        app.api_route(path, methods=READING)(page(WEB / name))

    @app.exception_handler(HTTPException)
    async def no_such_thing(request, error):
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        message = f"{request.method} {request.url.path[:100]}: {error.detail}" + (f"; use {allowed}" if allowed else "")
        return JSONResponse(error_content(error.status_code, message), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request, error):
        return error_response(500, "something in the server broke; its log says what")

    app.add_middleware(Doorkeeper, service=service)
    return app


class Named:
    """ASGI middleware: refuses what does not name this server. origins: origins.Origins."""

    def __init__(self, app, origins):
        self.app, self.origins = app, origins

    async def __call__(self, scope, receive, send):
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        objection = self.origins.objection(headers.get(b"host"), headers.get(b"origin"))
        return await (error_response(403, objection) if objection else self.app)(scope, receive, send)


class Doorkeeper(Named):
    """The same, and tells Connections when a request has been answered."""

    def __init__(self, app, service):
        super().__init__(app, service.origins)
        self.connections = service.connections

    async def __call__(self, scope, receive, send):
        """Pass a request on, or refuse it."""
        try:
            return await super().__call__(scope, receive, send)
        finally:
            if scope["type"] == "http" and scope.get("client"):
                self.connections.waiting(tuple(scope["client"]))


def page(path):
    """A function that answers with a file."""

    async def send_file():
        return FileResponse(path, headers=PAGE_HEADERS)

    return send_file


class Server(uvicorn.Server):
    """A server that on the first signal refuses what is new; a second one ends the process at once, as StopSignals
    has it."""

    def __init__(self, service):
        # Broken requests are told to those who send them; here they would fill the log.
        quiet = {"log_config": None, "log_level": "error", "access_log": False}
        limits = {
            "http": protocol(service.connections),
            "timeout_keep_alive": int(service.connections.keep_alive_timeout),
        }
        super().__init__(uvicorn.Config(make_app(service), lifespan="off", ws="none", **quiet, **limits))
        line = "stopping: what was accepted is finished; once more stops at once"
        self.signals = StopSignals(line, service.engine.stop)

    def handle_exit(self, sig, frame):
        """Obey a signal; uvicorn has set this as their handler."""
        self.signals.handle(sig, frame)

    @property
    def signalled(self):
        """When the first signal came, None if none did."""
        return self.signals.since


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
        service.connections.sweep()
        await asyncio.sleep(LOOK_EVERY)
    await running
    if service.engine.failure:
        raise service.engine.failure
    if unfinished:
        raise RunError(f"{unfinished} requests were not finished within {stop_timeout:g} s of the signal")
