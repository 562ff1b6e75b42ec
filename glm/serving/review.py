"""A page to review pairs on, and the requests that it makes: one reviewer, one file, no model."""

import asyncio
import json

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from glm.errors import RunError, UserError
from glm.serving.app import NOT_KEPT, READING, WEB, Named, error_response, page

PARTS = ("page.css", "review.css", "shared.js", "review.js")
PAGES = {"/": "review.html", **{f"/{name}": name for name in PARTS}}
# Bytes of a decision's body.
LARGEST = 2**20


def make_app(review, origins):
    """The FastAPI app of a pairs.review.Review. origins: origins.Origins."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Decisions are written one after another.
    turn = asyncio.Lock()

    async def changed(change, *values):
        async with turn:
            return JSONResponse(await run_in_threadpool(change, *values), 200, NOT_KEPT)

    @app.get("/pairs")
    async def summary():
        return JSONResponse({"file": review.path.name, "pairs": review.summary()}, 200, NOT_KEPT)

    @app.get("/pairs/{number}")
    async def shown(number: int):
        return JSONResponse(review.shown(number), 200, NOT_KEPT)

    @app.put("/pairs/{number}")
    async def decide(number: int, request: Request):
        return await changed(review.decide, number, *await decision_in(request))

    @app.delete("/pairs/{number}")
    async def undo(number: int):
        return await changed(review.undo, number)

    for path, name in PAGES.items():
        app.api_route(path, methods=READING)(page(WEB / name))

    @app.exception_handler(UserError)
    async def refused(request, error):
        return error_response(422, str(error))

    @app.exception_handler(RunError)
    async def failed(request, error):
        return error_response(507, str(error))

    app.add_middleware(Named, origins=origins)
    return app


async def decision_in(request):
    """(decision, question or None, answer or None) of a request's body. Raises UserError."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise UserError(f"a decision has more than {LARGEST:,} bytes")
    try:
        content = json.loads(body)
        values = [content.get(name) for name in ("decision", "question", "answer")]
    except (ValueError, AttributeError, RecursionError):
        raise UserError("a decision is a JSON object with decision, question and answer") from None
    if not isinstance(values[0], str) or not all(value is None or isinstance(value, str) for value in values[1:]):
        raise UserError("decision, question and answer are strings")
    return values


class Server(uvicorn.Server):
    """A server that a signal ends; what was decided is written already."""

    def handle_exit(self, sig, frame):
        """Obey a signal; uvicorn has set this as their handler."""
        self.should_exit = True


def serve(review, listener, origins):
    """Serve the page on a listening socket until a signal comes."""
    quiet = {"log_config": None, "log_level": "error", "access_log": False}
    server = Server(uvicorn.Config(make_app(review, origins), lifespan="off", ws="none", **quiet))
    asyncio.run(server.serve(sockets=[listener]))
