"""A server that speaks OpenAI's protocol, and its page to talk to the model.

Requests are read here, generated for by a Worker in a thread of its own, and answered as a whole or as a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from fm9g.errors import UserError
from fm9g.serve.protocol import Asked, Response, read_request
from fm9g.serve.text_model import Delta, Request, TextModel
from fm9g.serve.worker import Busy, Failed, Job, Worker

PAGE = Path(__file__).with_name("page.html")
MOST_BYTES = 16 << 20  # of a body
_LOOK = 0.5  # seconds after which it is looked whether somebody still waits
Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


@dataclass(frozen=True)
class Server:
    """What requests are answered with. `name`: of the model; `api_key`: what they must show, "" for nothing;
    `defaults`: how text is generated where a request does not say it."""

    model: TextModel
    worker: Worker
    name: str
    api_key: str
    defaults: Request
    page: bool

    def app(self) -> Starlette:
        """The application to run."""
        routes = [
            Route("/v1/chat/completions", self._guarded(self._complete(True)), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._complete(False)), methods=["POST"]),
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/models/{name:path}", self._guarded(self._model)),
            Route("/health", self._health),
        ]
        if self.page:
            routes.append(Route("/", _page))
        return Starlette(routes=routes)

    def _guarded(self, handler: Handler) -> Handler:
        """A handler for those who show the key; what is wrong with a request becomes an error of OpenAI's form."""

        async def answer(request: HttpRequest) -> HttpResponse:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if self.api_key and not hmac.compare_digest(given.encode("latin-1"), self.api_key.encode()):
                return _error(401, "a wrong API key, or none")
            try:
                return await handler(request)
            except UserError as error:
                return _error(400, str(error))
            except Busy as busy:
                return _error(503, str(busy))
            except ClientDisconnect:
                return _error(400, "the body is not whole")

        return answer

    def _complete(self, chat: bool) -> Handler:
        async def answer(request: HttpRequest) -> HttpResponse:
            body = await _body(request)
            asked = await run_in_threadpool(read_request, body, chat, self.model, self.defaults)
            job, steps = self._submitted(asked)
            response = Response(asked, self.name, self.model.tokenizer)
            if asked.stream:
                events = _events(response, job, steps)
                return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
            found = await _all(request, job, steps)
            return _failed(found) if isinstance(found, Failed) else JSONResponse(response.whole(found))

        return answer

    def _submitted(self, asked: Asked) -> tuple[Job, asyncio.Queue[Any]]:
        """A job that the worker was given, and the queue that its steps come through."""
        steps: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        job = Job(asked.prompts, asked.request, asked.chat, lambda step: _put(loop, steps, step))
        self.worker.submit(job)
        return job, steps

    async def _health(self, request: HttpRequest) -> HttpResponse:
        return _error(503, "nothing generates any more") if self.worker.ended else JSONResponse({"status": "ok"})

    @property
    def _told(self) -> dict[str, Any]:
        renderer = self.model.renderer
        told = {"id": self.name, "object": "model", "created": 0, "owned_by": "fm9g"}
        return told | {"template": renderer.name if renderer else None}

    async def _models(self, request: HttpRequest) -> HttpResponse:
        return JSONResponse({"object": "list", "data": [self._told]})

    async def _model(self, request: HttpRequest) -> HttpResponse:
        named = request.path_params["name"] == self.name
        return JSONResponse(self._told) if named else _error(404, f"the model here is {self.name}")


def _put(loop: asyncio.AbstractEventLoop, steps: asyncio.Queue[Any], step: Any) -> None:
    """Hand a step from the worker's thread to the loop's; nobody wants it once that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(steps.put_nowait, step)


async def _body(request: HttpRequest) -> Any:
    """A body of JSON. Only what says that it is: a page of another site cannot send that unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise UserError("the body must be JSON, and say so: content-type application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise UserError(f"the body has more than {MOST_BYTES >> 20} MiB")
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is no JSON: {error}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


async def _all(request: HttpRequest, job: Job, steps: asyncio.Queue[Any]) -> list[list[Delta]] | Failed:
    """All steps of a job, which is given up when nobody waits for them any more, or why it failed."""
    found: list[list[Delta]] = []
    looked = time.monotonic()
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            step = await asyncio.wait_for(steps.get(), _LOOK)
            if step is None or isinstance(step, Failed):
                return found if step is None else step
            found.append(step)
        if time.monotonic() - looked > _LOOK:
            looked = time.monotonic()
            if await request.is_disconnected():
                job.cancelled.set()
                return found


async def _events(response: Response, job: Job, steps: asyncio.Queue[Any]) -> AsyncIterator[str]:
    """The server-sent events of a stream. Who hangs up ends the job."""
    try:
        for chunk in response.opening():
            yield _event(chunk)
        while (step := await steps.get()) is not None:
            if isinstance(step, Failed):
                yield _event(_told(step.message, _status(step)))
                return
            for chunk in response.chunks(step):
                yield _event(chunk)
        for chunk in response.closing():
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    finally:
        job.cancelled.set()


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _told(message: str, status: int) -> dict[str, Any]:
    kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
    kinds |= {500: "server_error", 503: "overloaded_error"}
    message = message.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair, of what was asked
    return {"error": {"message": message, "type": kinds[status], "param": None, "code": None}}


def _error(status: int, message: str) -> HttpResponse:
    return JSONResponse(_told(message, status), status)


def _status(failed: Failed) -> int:
    return 500 if failed.ours else 400


def _failed(failed: Failed) -> HttpResponse:
    return _error(_status(failed), failed.message)


async def _page(request: HttpRequest) -> HttpResponse:
    return HTMLResponse(PAGE.read_text("utf-8"))
