"""Another OpenAI-compatible server (vLLM, SGLang, llama.cpp's, another node) as a node's backend.

Requests are checked as for the bundled engine and sent on under the server's own model name; its stream is translated
and counted (`run.py`). `fields.py` chooses the settings that are sent. Priorities are not passed on, because their
meaning differs among servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

import aiohttp
from prometheus_client.metrics_core import Metric

from model.serving.api.context import room_for
from model.serving.api.errors import ApiError, not_now, too_late, upstream_failed
from model.serving.api.event_stream import BrokenStreamError, documents
from model.serving.api.requests import Prompt
from model.serving.api.tokenizer import Tokenizer
from model.serving.node.backend import Ask, Piece, TokenCount
from model.serving.upstream.counting import PromptCounter, as_fields
from model.serving.upstream.fields import settings_for
from model.serving.upstream.run import LateError, Translation

CONNECT_S = 5.0
SHORT_S = 10.0
SILENCE_S = 120.0  # between two pieces of one stream
READY_AGE_S = 2.0  # how long a successful check of the server is reused
UNREACHABLE = (aiohttp.ClientError, TimeoutError)


class UpstreamServer:
    """The server's address and key, and connections to it from one event loop."""

    def __init__(self, url: str, key: str | None) -> None:
        self.root = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def http(self) -> aiohttp.ClientSession:
        if self._session is None:  # a session belongs to the loop that it was made on
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=SHORT_S, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def get(self, path: str) -> dict[str, Any]:
        """Raises ApiError."""
        return await self._call("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises ApiError."""
        return await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            async with self.http.request(method, self.root + path, json=body) as answer:
                content = await answer.read()
        except UNREACHABLE as error:
            raise unreachable(error) from error
        if answer.status != 200:
            raise refusal(answer.status, content)
        try:
            document = json.loads(content)
        except ValueError as error:
            raise upstream_failed(f"{path} returned invalid JSON") from error
        if not isinstance(document, dict):
            raise upstream_failed(f"{path} did not return a JSON object")
        return document

    async def stream(self, path: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """The response of a stream that has begun. Raises ApiError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        try:
            response = await self.http.post(self.root + path, json=body, timeout=timeout)
            if response.status != 200:
                async with response:
                    raise refusal(response.status, await response.read())
        except UNREACHABLE as error:
            raise unreachable(error) from error
        return response

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class Upstream:
    """Backend of one model of an upstream server."""

    def __init__(
        self,
        server: UpstreamServer,
        model: str,
        *,
        max_context: int,
        counter: PromptCounter,
        tokenizer: Tokenizer | None,
        tells_usage: bool,
        is_llama_cpp: bool = False,
    ) -> None:
        self._server, self._model, self._max_context = server, model, max_context
        self._counter, self._tokenizer, self._tells_usage = counter, tokenizer, tells_usage
        self._is_llama_cpp = is_llama_cpp
        self._running: set[UpstreamRun] = set()
        self._n_miscounted = 0
        self._answered_at = float("-inf")

    @property
    def name(self) -> str:
        return self._model

    @property
    def is_alive(self) -> bool:
        return True

    def describe(self) -> dict[str, Any]:
        counted = {"prompt_tokens": self._counter.source, "completion_tokens": self._completions_counted_by}
        return {
            "max_context": self._max_context,
            "metadata": {"served_by": "upstream", "counted_by": counted},
        }

    @property
    def _completions_counted_by(self) -> str:
        if self._tells_usage:
            return "upstream"
        return "upstream at the end, recount until then" if self._tokenizer else "upstream at the end"

    def stats(self) -> dict[str, int]:
        return {"running": len(self._running), "waiting": 0, "miscounted": self._n_miscounted}

    def collect(self) -> Iterable[Metric]:
        return ()

    async def check_ready(self) -> None:
        if time.monotonic() - self._answered_at > READY_AGE_S:
            await self._server.get("/v1/models")
            self._answered_at = time.monotonic()

    async def count(self, prompt: Prompt) -> TokenCount:
        return TokenCount(await self._counter.count(prompt), self._max_context)

    async def start(self, ask: Ask) -> UpstreamRun:
        deadline = _deadline(ask.options.deadline_ms)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._start(ask, deadline)
        except TimeoutError as error:
            raise too_late() from error

    async def _start(self, ask: Ask, deadline: float | None) -> UpstreamRun:
        n_prompt = await self._counter.count(ask.prompt)
        max_tokens = room_for(n_prompt, self._max_context, ask.options, is_chat=ask.is_chat)
        path = "/v1/chat/completions" if ask.is_chat else "/v1/completions"
        response = await self._server.stream(path, self._body(ask, max_tokens))
        n_answers = ask.options.n_answers
        translation = Translation(
            n_answers=n_answers,
            n_prompt=n_prompt,
            prompt_source=self._counter.source,
            limit=max_tokens * n_answers,
            tokenizer=self._tokenizer,
        )
        run = UpstreamRun(response, translation, deadline, self._end)
        self._running.add(run)
        return run

    def _body(self, ask: Ask, max_tokens: int) -> dict[str, Any]:
        usage = {"include_usage": True, **({"continuous_usage_stats": True} if self._tells_usage else {})}
        settings = settings_for(ask.body, is_llama_cpp=self._is_llama_cpp)
        prompt = as_fields(ask.prompt)
        own = {"model": self._model, "max_tokens": max_tokens, "stream": True, "stream_options": usage}
        return {**settings, **prompt, **own}

    def _end(self, run: UpstreamRun) -> None:
        if run in self._running:
            self._running.discard(run)
            self._n_miscounted += run.miscounted

    async def stop(self) -> None:
        for run in list(self._running):
            run.break_off()
        await self._server.close()


class UpstreamRun:
    """One stream of the server, until its end or `deadline` on the loop's clock."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        translation: Translation,
        deadline: float | None,
        on_end: Callable[[UpstreamRun], None],
    ) -> None:
        self._response, self._translation, self._on_end = response, translation, on_end
        self._deadline = deadline
        self._is_broken_off = False

    @property
    def miscounted(self) -> bool:
        return self._translation.miscounted

    async def pieces(self) -> AsyncIterator[Piece]:
        async with aclosing(self._chunks()) as chunks:
            async for piece in self._translation.pieces(chunks):
                yield piece

    async def _chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """The stream's documents until its end. Raises LateError at the deadline, and ApiError."""
        async with aclosing(documents(self._response.content.iter_any())) as stream:
            while True:
                try:
                    async with asyncio.timeout_at(self._deadline) as allowed:
                        chunk = await anext(stream)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    if allowed.expired():
                        raise LateError from error
                    raise upstream_failed(f"it sent nothing for {SILENCE_S:g} s") from error
                except (aiohttp.ClientError, BrokenStreamError, OSError) as error:
                    if self._is_broken_off:
                        raise not_now("shutting_down", "the node ended this answer early") from error
                    raise upstream_failed(f"{type(error).__name__}: {error}") from error
                yield chunk

    def cancel(self) -> None:
        """Close an unfinished response and so its connection, which makes the server stop."""
        self._response.close()
        self._on_end(self)

    def break_off(self) -> None:
        self._is_broken_off = True
        self.cancel()


def _deadline(after_ms: int | None) -> float | None:
    """The time of the running loop's clock in `after_ms`; None for no deadline."""
    return None if after_ms is None else asyncio.get_running_loop().time() + after_ms / 1000


def unreachable(error: Exception) -> ApiError:
    return not_now(
        "upstream_unreachable", f"the server behind this node cannot be reached ({type(error).__name__})"
    )


def refusal(status: int, content: bytes) -> ApiError:
    """Translate the server's error into this node's; errors of the request stay errors of the request."""
    message, param, code = f"HTTP {status}", None, None
    try:
        document = json.loads(content)
        error = document.get("error", document)  # older vLLM has the fields at the top level
        message, param, code = str(error["message"])[:500], error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    if status in {400, 404, 413, 422}:
        known = code if isinstance(code, str) else "model_not_found" if status == 404 else "invalid_value"
        return ApiError(status, known, message, param=param if isinstance(param, str) else None)
    if status == 429:
        return not_now("queue_full", message, retry_s=2, status=429)
    if status == 503:
        return not_now("upstream_unavailable", message)
    if status in {401, 403}:
        return upstream_failed("it refuses this node's key")
    return upstream_failed(message)
