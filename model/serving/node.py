"""The model node: one model behind OpenAI-shaped HTTP, for the gateway to talk to.

`python -m model.serving.node --model NAME_OR_DIR --host 127.0.0.1 --port N [--token-file FILE]`

Answers GET /health (no token), GET /v1/models, GET /stats, POST /tokenize, POST /v1/chat/completions and
POST /v1/completions. Knows nothing of accounts, credits or prices.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.serving.answers import Answer
from model.serving.engine import Engine, EngineLimits, Generation
from model.serving.errors import ApiError, bad_value
from model.serving.requests import (
    COMPLETION_DEFAULT_TOKENS,
    Options,
    Prompt,
    read_messages,
    read_model,
    read_object,
    read_options,
    read_prompt,
)
from model.serving.served import ServedModel
from model.serving.service import Running, Service
from model.serving.streaming import EventStream, disconnected, stream_answer

MAX_BODY_BYTES = 4 << 20
CLIENT_CLOSED = 499  # nobody reads this answer; the number is nginx's, for the access log

Load = Callable[[], ServedModel]


class Node:
    """The routes, over a model that loads in the background once the server listens."""

    def __init__(
        self, load: Load, *, limits: EngineLimits, token: str | None, on_failure: Callable[[], None]
    ) -> None:
        self._load, self._limits, self._token, self._on_failure = load, limits, token, on_failure
        self._service: Service | None = None
        self._created = int(time.time())
        self.failure: Exception | None = None

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/stats", self._checked(self.stats)),
                Route("/v1/models", self._checked(self.models)),
                Route("/v1/models/{name:path}", self._checked(self.model)),
                Route("/tokenize", self._checked(self.tokenize), methods=["POST"]),
                Route("/v1/chat/completions", self._checked(self.chat), methods=["POST"]),
                Route("/v1/completions", self._checked(self.completion), methods=["POST"]),
            ],
            exception_handlers={
                ApiError: _answer_error,
                HTTPException: _answer_http_error,
                Exception: _answer_bug,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._start())
        yield
        await loading
        if self._service is not None:
            await asyncio.to_thread(self._service.engine.stop)

    async def _start(self) -> None:
        try:
            served = await asyncio.to_thread(self._load)
        except Exception as error:
            self.fail(error)
            return
        engine = Engine(served, self._limits, self.fail)
        engine.start()
        self._service = Service(served, engine)

    def fail(self, error: Exception) -> None:
        """Ends the node: what it serves with is lost. From any thread."""
        self.failure = error
        self._on_failure()

    def _checked(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def check(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                message = "this node needs its bearer token"
                raise ApiError(401, "invalid_token", message, headers={"WWW-Authenticate": "Bearer"})
            return await handler(request)

        return check

    @property
    def service(self) -> Service:
        if self._service is None:
            headers = {"Retry-After": "1"}
            raise ApiError(503, "loading", "the model is loading", kind="server_error", headers=headers)
        return self._service

    async def health(self, _: Request) -> Response:
        service = self._service
        if service is None:
            return JSONResponse({"status": "loading"}, 503)
        if not service.engine.is_alive:
            return JSONResponse({"status": "failed"}, 503)
        engine = service.engine
        state = {"model": service.served.name, "waiting": engine.n_waiting, "running": engine.n_running}
        return JSONResponse({"status": "ok", **state})

    async def stats(self, _: Request) -> Response:
        engine = self.service.engine
        counters = {
            "busy_ns": engine.device.busy_ns,
            "waiting": engine.n_waiting,
            "running": engine.n_running,
        }
        return JSONResponse(counters)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._describe()]})

    async def model(self, request: Request) -> Response:
        self.service.check_model(request.path_params["name"])
        return JSONResponse(self._describe())

    def _describe(self) -> dict[str, Any]:
        served = self.service.served
        config = served.transformer.config
        return {
            "id": served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "gainshare",
            "max_context": served.max_context,
            "total_parameters": config.total_parameters,
            "active_parameters": config.active_parameters,
            "metadata": dict(served.metadata),
        }

    async def tokenize(self, request: Request) -> Response:
        body = read_object(await _json(request))
        self.service.check_model(read_model(body))
        prompt: Prompt = read_messages(body) if "messages" in body else read_prompt(body)
        tokens = await self.service.tokens_of(prompt)
        return JSONResponse({"count": len(tokens), "max_context": self.service.served.max_context})

    async def chat(self, request: Request) -> Response:
        body = read_object(await _json(request))
        options = read_options(body)
        self.service.check_model(options.model)
        generation = await self._generation(read_messages(body), options, None)
        return await self._answer(request, generation, options, Answer(options.model, is_chat=True))

    async def completion(self, request: Request) -> Response:
        body = read_object(await _json(request))
        options = read_options(body)
        self.service.check_model(options.model)
        generation = await self._generation(read_prompt(body), options, COMPLETION_DEFAULT_TOKENS)
        return await self._answer(request, generation, options, Answer(options.model, is_chat=False))

    async def _generation(self, prompt: Prompt, options: Options, default_tokens: int | None) -> Generation:
        tokens = await self.service.tokens_of(prompt)
        return self.service.generation(tokens, options, default_tokens)

    async def _answer(
        self, request: Request, generation: Generation, options: Options, answer: Answer
    ) -> Response:
        running = self.service.submit(generation)
        if options.is_streamed:
            return EventStream(stream_answer(running, options, answer), running)
        return await _whole(request, running, answer)


async def _whole(request: Request, running: Running, answer: Answer) -> Response:
    """Waits for the answer, but not for longer than the client does."""
    generating = asyncio.create_task(running.whole())
    leaving = asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({generating, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not generating.done():
            return Response(status_code=CLIENT_CLOSED)
        text, last = generating.result()
    finally:
        running.cancel()
        generating.cancel()
        leaving.cancel()
    assert last.finish is not None
    return JSONResponse(answer.whole(text, last.finish, last.usage))


async def _json(request: Request) -> Any:
    """The body, no larger than allowed. Raises ApiError."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ApiError(413, "request_too_large", f"a request may have {MAX_BODY_BYTES:,} bytes")
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_value("", f"the request body is not JSON: {error}", "invalid_json") from error


def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    return _answer_error(
        request, ApiError(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")
    )


def _answer_bug(request: Request, error: Exception) -> Response:
    return _answer_error(
        request, ApiError(500, "internal_error", "the node failed on this request", kind="server_error")
    )


if __name__ == "__main__":
    from model.serving.command import main

    main()
