"""An engine over HTTP: a page, questions as JSON or as server-sent events, OpenAI's interface, health and metrics."""

import asyncio
import time
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

from glm.errors import RunError
from glm.serving import openai_requests, schemas
from glm.serving.connections import protocol
from glm.serving.exchanges import CLIENT_GONE, READING_GRACE, REQUEST_ID, BoundedRequest, Exchange
from glm.serving.forms import GenerateForm, error_content
from glm.serving.openai_forms import ChatForm, CompletionForm
from glm.serving.requests import Refusal, prompt_fields, read_request
from glm.stopping import StopSignals

WEB = Path(__file__).resolve().parent / "web"
PAGES = {"/": "index.html", "/docs": "docs.html"}
PARTS = ("page.css", "docs.css", "shared.js", "page.js", "chat.js", "pairs.js", "docs.js")
PAGES |= {f"/{name}": name for name in PARTS}
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
# Where OpenAI's interface is, and what its clients take for a mistake in a request.
OPENAI = "/v1/"
MISTAKES = (413, 415, 422)
FAILURES = {422: {"model": schemas.Failure, "description": "The request makes no sense; the message says why."}}
FAILURES_OF_OPENAI = {400: {"model": schemas.Failure, "description": "The same."}, **FAILURES}


def error_response(status, message, retry_after=None, param=None, code=None, request_id=None):
    """The response for an error."""
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    if request_id:
        headers[REQUEST_ID] = request_id
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_content(status, message, param, code), status, headers)


def make_app(service):
    """The FastAPI app of a Service."""
    app = FastAPI(title="GLM", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    add_texts(app, service)
    add_models(app, service)
    add_readings(app, service)
    add_errors(app)
    app.add_middleware(Doorkeeper, service=service)
    if service.origins.foreign:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(service.origins.foreign),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=[REQUEST_ID, "Retry-After"],
        )
    return app


def add_texts(app, service):
    """Add what gives texts."""
    offer = service.catalogue.base.offer
    # An adapter may have a prompt of its own.
    generating = schemas.generate_request(offer.templates, open_to_others=service.catalogue.adapters is not None)
    app.router.route_class = route_class(service, {"/generate": (generating, offer.templates)})

    @app.post("/generate", response_model=schemas.OneAnswer | schemas.Answers, responses=FAILURES)
    async def generate(request: Request, asked: generating):
        """Texts of one prompt, or of several."""
        content = asked.given()
        return await exchange_of(request).respond(asked.model, lambda offer: read_request(content, offer), GenerateForm)

    def form(kind):
        return lambda asked, *named: kind(asked, *named, offer.tokenizer)

    @app.post("/v1/chat/completions", responses=FAILURES_OF_OPENAI)
    async def chat(request: Request, asked: openai_requests.ChatCompletion):
        """The next turn of a talk, as OpenAI's interface has it."""
        read = partial(openai_requests.read_chat, asked)
        return await exchange_of(request).respond(asked.model, read, form(ChatForm))

    @app.post("/v1/completions", responses=FAILURES_OF_OPENAI)
    async def complete(request: Request, asked: openai_requests.TextCompletion):
        """Texts of prompts, or a question about an answer in a context, as OpenAI's interface has it."""
        read = partial(openai_requests.read_completion, asked)
        return await exchange_of(request).respond(asked.model, read, form(CompletionForm))

    app.router.route_class = APIRoute


def exchange_of(request):
    """The Exchange of a request that a route of route_class() has begun."""
    return request.scope["exchange"]


def route_class(service, shapes):
    """The kind of routes that give texts: each request is an Exchange from its arrival on. shapes: {path: (model of its
    requests, templates of prompts)}, where messages name what there is."""

    class TextRoute(APIRoute):
        """A route that gives texts."""

        def get_route_handler(self):
            """What answers a request."""
            handle = super().get_route_handler()
            shape = shapes.get(self.path, (self.body_field.field_info.annotation, None))

            async def answered(request):
                exchange = Exchange(service, request)
                exchange.request.scope["exchange"] = exchange
                try:
                    exchange.begin()
                    return await handle(exchange.request)
                except BaseException as error:
                    return refused(exchange, error, shape)

            return answered

    return TextRoute


def bounded_class(service):
    """The kind of routes whose requests have a body within the server's limits."""

    class BoundedRoute(APIRoute):
        """A route of bounded bodies."""

        def get_route_handler(self):
            """What answers a request."""
            handle = super().get_route_handler()

            async def answered(request):
                try:
                    return await handle(BoundedRequest(request.scope, request.receive, service))
                except HTTPException as error:
                    raise error.__cause__ or error from None

            return answered

    return BoundedRoute


def refused(exchange, error, shape):
    """The response for what an Exchange has raised, which it ends; raises what is no refusal."""
    # FastAPI has an error of its own for what goes wrong where a body is read.
    error = error.__cause__ if isinstance(error, HTTPException) and error.__cause__ else error
    if isinstance(error, ClientDisconnect):
        error = Refusal(CLIENT_GONE, "the client has gone")
    if isinstance(error, RequestValidationError):
        message, param = schemas.message_of(error.errors(), *shape)
        error = Refusal(422, message, param=param)
    if not isinstance(error, Refusal):
        exchange.end(500)
        raise error
    response = refusal_response(error, exchange.request, exchange.id)
    exchange.end(response.status_code)
    return response


def refusal_response(refusal, request, request_id=None):
    """The response to a request for a Refusal. OpenAI's clients know one status for all mistakes in what they send."""
    openai = request.url.path.startswith(OPENAI)
    status = 400 if openai and refusal.status in MISTAKES else refusal.status
    return error_response(status, refusal.message, refusal.retry_after, refusal.param, refusal.code, request_id)


def add_models(app, service):
    """Add what tells of models."""

    catalogue = service.catalogue

    @app.get("/v1/models")
    async def models():
        """The models that requests may name."""
        return JSONResponse({"object": "list", "data": catalogue.listed()}, 200, NOT_KEPT)

    @app.get("/v1/models/{name:path}")
    async def model(name: str):
        """One of them."""
        return JSONResponse(catalogue.described(catalogue.of(name)), 200, NOT_KEPT)

    app.router.route_class = bounded_class(service)

    async def changed(change, *arguments):
        if service.keys is None:
            raise Refusal(
                403, "adapters come and go by requests with a key alone; start the server with --api_key_file"
            )
        await asyncio.to_thread(change, *arguments)
        return JSONResponse({"object": "list", "data": catalogue.listed()}, 200, NOT_KEPT)

    @app.post("/v1/load_lora_adapter", responses=FAILURES_OF_OPENAI)
    async def load(asked: schemas.AdapterRequest):
        """Load a LoRA adapter of the base model under a name, by which requests ask for it as their model."""
        return await changed(catalogue.load, asked.lora_name, asked.lora_path or "", service.engine.adapters)

    @app.post("/v1/unload_lora_adapter", responses=FAILURES_OF_OPENAI)
    async def unload(asked: schemas.AdapterRequest):
        """Remove a LoRA adapter. What is being decoded with it goes on."""
        return await changed(catalogue.unload, asked.lora_name)

    app.router.route_class = APIRoute


def add_readings(app, service):
    """Add what is only read: health, metrics, pages."""

    @app.api_route("/healthz", methods=READING)
    async def health():
        """Whether the server takes requests."""
        state = service.engine.state
        return JSONResponse({"status": state}, 200 if state == "ok" else 503, NOT_KEPT)

    @app.api_route("/metrics", methods=READING)
    async def metrics():
        """What the server has counted, for Prometheus."""
        return PlainTextResponse(service.monitor.text(), 200, NOT_KEPT, CONTENT_TYPE_LATEST)

    @app.get("/page.json", include_in_schema=False)
    async def about():
        """What the page offers, of which models, and whether they ask for a key."""
        prepared = service.tokenizer.preparation.prompt
        own = None if prepared is None else prompt_fields({"own": service.catalogue.base.offer.templates["own"]})
        content = {"kinds": ["ask"] if own else service.kinds, "fields": own, "key": service.keys is not None}
        return JSONResponse({**content, "models": list(service.catalogue.entries)}, 200, NOT_KEPT)

    for path, name in PAGES.items():
        app.api_route(path, methods=READING, include_in_schema=False)(page(WEB / name))


def add_errors(app):
    """Add what is said where nothing of that fits."""

    @app.exception_handler(HTTPException)
    async def no_such_thing(request, error):
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        message = f"{request.method} {request.url.path[:100]}: {error.detail}" + (f"; use {allowed}" if allowed else "")
        return JSONResponse(error_content(error.status_code, message), error.status_code, error.headers)

    @app.exception_handler(Refusal)
    async def refusal(request, error):
        return refusal_response(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):
        message, param = schemas.message_of(error.errors(), schemas.AdapterRequest)
        return refusal_response(Refusal(422, message, param=param), request)

    @app.exception_handler(Exception)
    async def broken(request, error):
        return error_response(500, "something in the server broke; its log says what")


class Named:
    """ASGI middleware: refuses what does not name this server. origins: origins.Origins."""

    def __init__(self, app, origins):
        self.app, self.origins = app, origins

    async def __call__(self, scope, receive, send):
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        refusal = self.refusal(scope, headers)
        return await (refusal or self.app)(scope, receive, send)

    def refusal(self, scope, headers):
        """The response for a request with these headers, {name: text}, that is not passed on; else None."""
        objection = self.origins.objection(headers.get(b"host"), headers.get(b"origin"))
        return error_response(403, objection) if objection else None


class Doorkeeper(Named):
    """The same, asks for a key where there are some, and tells Connections when a request has been answered."""

    def __init__(self, app, service):
        super().__init__(app, service.origins)
        self.connections, self.keys = service.connections, service.keys

    def refusal(self, scope, headers):
        """See Named."""
        asks_for_texts = scope["path"] == "/generate" or scope["path"].startswith(OPENAI)
        if self.keys is not None and asks_for_texts and not self.keys.allow(headers.get(b"authorization")):
            return super().refusal(scope, headers) or error_response(
                401, "this server asks for a key: send the header Authorization: Bearer KEY"
            )
        return super().refusal(scope, headers)

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
    has it. certificate: files of a TLS certificate and its key, or ()."""

    def __init__(self, service, certificate=()):
        # Broken requests are told to those who send them; here they would fill the log.
        quiet = {"log_config": None, "log_level": "error", "access_log": False}
        limits = {
            "http": protocol(service.connections),
            "timeout_keep_alive": int(service.connections.keep_alive_timeout),
        }
        secret = dict(zip(("ssl_certfile", "ssl_keyfile"), certificate, strict=False))
        super().__init__(uvicorn.Config(make_app(service), lifespan="off", ws="none", **quiet, **limits, **secret))
        line = "stopping: what was accepted is finished; once more stops at once"
        self.signals = StopSignals(line, service.engine.stop)

    def handle_exit(self, sig, frame):
        """Obey a signal; uvicorn has set this as their handler."""
        self.signals.handle(sig, frame)

    @property
    def signalled(self):
        """When the first signal came, None if none did."""
        return self.signals.since


async def serve(service, listener, stop_timeout, certificate=()):
    """Serve on a listening socket until a signal comes, then finish what was accepted, for stop_timeout seconds.

    Raises what kept the model from being loaded, and RunError if something was left unfinished.
    """
    server = Server(service, certificate)
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
