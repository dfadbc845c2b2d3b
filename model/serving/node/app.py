"""The node's HTTP routes: one model behind OpenAI-shaped addresses, for the gateway to talk to.

`python -m model.serving.node --model NAME_OR_DIR --host 127.0.0.1 --port N [--token-file FILE]`
`python -m model.serving.node --upstream URL …` serves the model of another OpenAI-compatible server.

Answers GET /health and /ready (no token), /v1/models, /stats, /metrics, POST /tokenize, /v1/chat/completions,
/v1/completions and /admin/swap; docs/reference/node.md describes them.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.serving.api.answers import Answer
from model.serving.api.errors import ApiError, bad_value
from model.serving.api.requests import read_messages, read_model, read_object, read_options, read_prompt
from model.serving.api.streaming import EventStream, stream_answer, while_connected
from model.serving.node.backend import Ask, Piece, Running
from model.serving.node.host import Deployment, Host
from model.serving.node.metrics import CONTENT_TYPE, NodeMetrics
from model.serving.node.served import MAX_NAME_SHOWN

MAX_BODY_BYTES = 4 << 20
CLIENT_CLOSED = 499  # nginx's status for the access log: the client has disconnected
OWNER_HEADER = "x-gainshare-owner"  # set by the gateway: an opaque name of the account
MAX_OWNER_CHARACTERS = 128

Handler = Callable[[Request], Awaitable[Response]]


class Node:
    """The routes, over a host whose model loads in the background once the server listens."""

    def __init__(self, host: Host, *, token: str | None) -> None:
        self.host, self._token = host, token
        self._metrics = NodeMetrics(host)

    def app(self) -> Starlette:
        checked = self._checked
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/ready", self.ready),
                Route("/stats", checked(self.stats)),
                Route("/metrics", checked(self.metrics)),
                Route("/v1/models", checked(self.models)),
                Route("/v1/models/{name:path}", checked(self.model)),
                Route("/tokenize", checked(self.tokenize), methods=["POST"]),
                Route("/v1/chat/completions", checked(self.chat), methods=["POST"]),
                Route("/v1/completions", checked(self.completion), methods=["POST"]),
                Route("/admin/swap", checked(self.swap), methods=["POST"]),
            ],
            exception_handlers={
                ApiError: self._answer_error,
                HTTPException: self._answer_http_error,
                ClientDisconnect: _client_closed,
                Exception: self._answer_bug,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self.host.start())
        yield
        loading.cancel()  # a model that its thread still loads is dropped, see `process.serve`
        await self.host.stop()

    def _checked(self, handler: Handler) -> Handler:
        async def check(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                message = "this node requires its bearer token: send it as Authorization: Bearer TOKEN"
                raise ApiError(401, "invalid_token", message, headers={"WWW-Authenticate": "Bearer"})
            return await handler(request)

        return check

    # -- state ----------------------------------------------------------------------------------------

    async def health(self, _: Request) -> Response:
        """GET /health: 503 while the model loads, and after its engine ended by itself."""
        deployment = self.host.deployment
        if deployment is None:
            return JSONResponse({"status": "loading"}, 503)
        if not deployment.backend.is_alive and not self.host.is_draining:
            return JSONResponse({"status": "failed"}, 503)
        stats = deployment.backend.stats()
        state = {"model": deployment.backend.name, "waiting": stats["waiting"], "running": stats["running"]}
        return JSONResponse({"status": "draining" if self.host.is_draining else "ok", **state})

    async def ready(self, _: Request) -> Response:
        """GET /ready: whether requests should be sent here; a full queue is temporary and answered 429 only."""
        try:
            deployment = self.host.accepting()
            await deployment.backend.check_ready()
        except ApiError as error:
            return JSONResponse({"status": error.code}, 503, error.headers)
        return JSONResponse({"status": "ready", "model": deployment.backend.name})

    async def stats(self, _: Request) -> Response:
        deployment = self.host.current
        return JSONResponse({**deployment.backend.stats(), "answering": deployment.n_answering})

    async def metrics(self, _: Request) -> Response:
        return Response(self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_described(self.host.accepting())]})

    async def model(self, request: Request) -> Response:
        deployment = self.host.current
        _check_model(deployment, request.path_params["name"])
        return JSONResponse(_described(deployment))

    async def swap(self, request: Request) -> Response:
        """POST /admin/swap {"model": NAME_OR_DIR}: load another model while the current one serves, then switch."""
        if not self._token:
            message = "models can be swapped on a node with a token only: start it with --token-file"
            raise ApiError(403, "token_needed", message)
        swapped = await self.host.swap(read_model(read_object(await _json(request))))
        return JSONResponse(
            {"model": swapped.model, "previous": swapped.previous, "load_ms": swapped.load_ms}
        )

    # -- answers --------------------------------------------------------------------------------------

    async def tokenize(self, request: Request) -> Response:
        body = read_object(await _json(request))
        deployment = self.host.accepting()
        _check_model(deployment, read_model(body))
        counted = await deployment.backend.count(
            read_messages(body) if "messages" in body else read_prompt(body)
        )
        return JSONResponse({"count": counted.count, "max_context": counted.max_context})

    async def chat(self, request: Request) -> Response:
        return await self._generate(request, is_chat=True)

    async def completion(self, request: Request) -> Response:
        return await self._generate(request, is_chat=False)

    async def _generate(self, request: Request, *, is_chat: bool) -> Response:
        body = read_object(await _json(request))
        options = read_options(body, is_chat=is_chat)
        deployment = self.host.accepting()
        _check_model(deployment, options.model)
        prompt = read_messages(body) if is_chat else read_prompt(body)
        ask = Ask(prompt, options, is_chat, body, _owner(request))
        endpoint = "chat" if is_chat else "completion"
        started = await while_connected(request.receive, deployment.start(ask))
        if started is None:
            self._metrics.left(endpoint)
            return Response(status_code=CLIENT_CLOSED)
        running = self._metrics.watch(endpoint, started)
        answer = Answer(options.model, is_chat=is_chat)
        if options.is_streamed:
            return EventStream(stream_answer(running, options, answer), running)
        return await _whole(request, running, answer)

    # -- failures -------------------------------------------------------------------------------------

    def _answer_error(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        self._metrics.refused(error.code)
        headers = {**error.headers, **({"Connection": "close"} if self.host.is_draining else {})}
        return JSONResponse(error.body(), error.status, headers)

    def _answer_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = "method_not_allowed" if error.status_code == 405 else "not_found"
        message = f"{request.method} {request.url.path}: {error.detail}"
        headers = dict(error.headers or {})  # which methods are allowed
        return self._answer_error(request, ApiError(error.status_code, code, message, headers=headers))

    def _answer_bug(self, request: Request, _: Exception) -> Response:
        message = "the node failed on this request"
        return self._answer_error(request, ApiError(500, "internal_error", message, kind="server_error"))


def _check_model(deployment: Deployment, name: str) -> None:
    serves = deployment.backend.name
    if name != serves:
        message = f"the model {name[:MAX_NAME_SHOWN]!r} does not exist here; this node serves {serves!r}"
        raise ApiError(404, "model_not_found", message, param="model")


def _described(deployment: Deployment) -> dict[str, Any]:
    backend = deployment.backend
    head = {"id": backend.name, "object": "model", "created": deployment.created, "owned_by": "gainshare"}
    return {**head, **backend.describe()}


def _owner(request: Request) -> str:
    owner = request.headers.get(OWNER_HEADER, "")
    if len(owner) > MAX_OWNER_CHARACTERS:
        raise bad_value(None, f"{OWNER_HEADER} may have at most {MAX_OWNER_CHARACTERS} characters")
    return owner


async def _whole(request: Request, running: Running, answer: Answer) -> Response:
    """The whole answer; ends when the client disconnects."""
    try:
        pieces = await while_connected(request.receive, _gathered(running))
        return Response(status_code=CLIENT_CLOSED) if pieces is None else JSONResponse(answer.whole(pieces))
    finally:
        running.cancel()


async def _gathered(running: Running) -> list[Piece]:
    return [piece async for piece in running.pieces()]


async def _json(request: Request) -> Any:
    """Read a JSON body of at most `MAX_BODY_BYTES`. Raises ApiError."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ApiError(
                    413, "request_too_large", f"the request is too large: at most {MAX_BODY_BYTES:,} bytes"
                )
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_value(None, f"the request body is not JSON: {error}", "invalid_json") from error


def _client_closed(_: Request, __: Exception) -> Response:
    """Response to a client that disconnected while it sent its body."""
    return Response(status_code=CLIENT_CLOSED)
