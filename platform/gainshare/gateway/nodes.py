"""HTTP client for model nodes: served models, prompt lengths, and streams of chunks.

One pool per event loop, with persistent connections (aiohttp: a call takes a third of httpx's time). Of the
nodes that serve a model, the one with the fewest requests of this process in flight is used first.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

from gainshare.gateway.errors import (
    BadRequest,
    ContextTooLong,
    DeadlineMissed,
    GatewayError,
    NodeFailed,
    NodeUnavailable,
    UnknownModel,
)
from gainshare.gateway.requests import GenerationRequest
from model.serving.api.event_stream import BrokenStreamError, documents

logger = logging.getLogger(__name__)

CATALOGUE_S = 10.0  # how long a node's list of models is cached
UNREACHABLE_S = 1.0  # how long a node that refused a connection is skipped
DRAIN_S = 1.0  # how long a node may take to close an answer after its last event
KEEP_ALIVE_S = 30.0  # less than a node's timeout, so that this side closes idle connections first
SHORT_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
# Between two chunks of one stream; the whole generation has its own deadline (`generation.py`).
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=120.0)
OWNER_HEADER = "X-Gainshare-Owner"  # as `model/serving/node/app.py` reads it
UNREACHABLE = (aiohttp.ClientError, TimeoutError)


class NodeStreamError(Exception):
    """The node's stream broke off; the message is for the log."""


class DeadlinePassed(NodeStreamError):
    """The node did not begin the answer before the deadline that the request named."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Length of a prompt and of the model's context, in tokens."""

    prompt_tokens: int
    max_context: int


@dataclass(eq=False, slots=True)
class ModelNode:
    """This process's state of one node."""

    url: str
    in_flight: int = 0
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_at: float = float("-inf")  # monotonic seconds
    unreachable_until: float = float("-inf")


class NodePool:
    """The configured nodes and their HTTP client. Belongs to one event loop."""

    def __init__(self, urls: list[str], token: str) -> None:
        self.nodes = [ModelNode(url.rstrip("/")) for url in urls]
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=SHORT_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def models(self) -> dict[str, dict[str, Any]]:
        """Model objects in OpenAI's shape, by name, of all reachable nodes; raises `NodeUnavailable`."""
        reachable = await self._refresh(CATALOGUE_S)
        return {name: model for node in reachable for name, model in node.models.items()}

    async def serving(self, model: str) -> list[ModelNode]:
        """Reachable nodes that serve `model`, least busy first; raises `UnknownModel`, `NodeUnavailable`."""
        reachable = await self._refresh(CATALOGUE_S)
        if not any(model in node.models for node in reachable):
            reachable = await self._refresh(UNREACHABLE_S)  # a node may have loaded a new model meanwhile
        serving = [node for node in reachable if model in node.models]
        if not serving:
            if len(reachable) < len(self.nodes):
                raise NodeUnavailable("A model node cannot be reached at the moment. Try again shortly.")
            known = ", ".join(sorted({name for node in reachable for name in node.models}))
            raise UnknownModel(
                f"The model '{model[:100]}' does not exist. Models served here: {known or 'none'}.",
                param="model",
            )
        return sorted(serving, key=lambda node: node.in_flight)

    async def tokenise(self, request: GenerationRequest) -> tuple[ModelNode, TokenCount]:
        """Choose a node for `request` and count the prompt there."""
        for node in await self.serving(request.model):
            prompt = {"model": request.model, **request.prompt}
            try:
                async with self._http.post(f"{node.url}/tokenize", json=prompt) as answer:
                    content = await answer.read()
            except UNREACHABLE:
                self._pass_over(node)
                continue
            if answer.status == 503:  # it is loading or shutting down; another one may be ready
                self._pass_over(node)
                continue
            if answer.status != 200:
                raise _refusal(answer.status, content)
            return node, _token_count(content)
        raise NodeUnavailable("No model node can be reached at the moment. Try again shortly.")

    @asynccontextmanager
    async def generate(
        self, node: ModelNode, request: GenerationRequest, max_tokens: int, *, owner: str = ""
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Start a generation of the tenant `owner` and yield its chunks' iterator; leaving the block cancels it.

        Raises `GatewayError` if the node refuses; the iterator raises `NodeStreamError`.
        """
        node.in_flight += 1
        try:
            url = f"{node.url}/v1/{request.endpoint.value}"
            try:
                response = await self._http.post(
                    url,
                    json=request.node_body(max_tokens),
                    headers={OWNER_HEADER: owner} if owner else None,
                    timeout=STREAM_TIMEOUT,
                )
            except UNREACHABLE:
                self._pass_over(node)
                raise NodeUnavailable("The model node cannot be reached. Try again shortly.") from None
            try:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                async with aclosing(_chunks(response.content)) as chunks:
                    yield chunks
            finally:
                # Closing an unfinished response closes its connection, which tells the node to stop.
                response.close()
        finally:
            node.in_flight -= 1

    async def aclose(self) -> None:
        await self._http.close()

    async def _refresh(self, max_age_s: float) -> list[ModelNode]:
        """Ask every node whose list is older than `max_age_s`; return the nodes that can be reached."""
        now = time.monotonic()
        stale = [n for n in self.nodes if now - n.asked_at >= max_age_s and n.unreachable_until <= now]
        if stale:
            await asyncio.gather(*(self._ask(node) for node in stale))
        now = time.monotonic()
        reachable = [node for node in self.nodes if node.unreachable_until <= now]
        if not reachable:
            raise NodeUnavailable("No model node can be reached at the moment. Try again shortly.")
        return reachable

    async def _ask(self, node: ModelNode) -> None:
        try:
            async with self._http.get(f"{node.url}/v1/models", raise_for_status=True) as answer:
                listed = json.loads(await answer.read())["data"]
            node.models = {str(model["id"]): model for model in listed}
        except (*UNREACHABLE, ValueError, KeyError, TypeError) as error:
            logger.warning("the node %s did not list its models: %s", node.url, error)
            self._pass_over(node)
        else:
            node.asked_at = time.monotonic()
            node.unreachable_until = float("-inf")

    def _pass_over(self, node: ModelNode) -> None:
        """Skip `node` for a moment, then ask for its models again."""
        node.unreachable_until = time.monotonic() + UNREACHABLE_S
        node.asked_at = float("-inf")


async def _chunks(body: aiohttp.StreamReader) -> AsyncGenerator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, up to and without `[DONE]`."""
    try:
        async with aclosing(documents(body.iter_any())) as chunks:
            async for chunk in chunks:
                if "error" in chunk:
                    raise _reported(chunk["error"])
                yield chunk
    except (*UNREACHABLE, BrokenStreamError) as error:
        raise NodeStreamError(f"{type(error).__name__}: {error}") from None
    await _drain(body)


def _token_count(content: bytes) -> TokenCount:
    """Parse a node's answer to a count of a prompt. Raises `NodeFailed` if it is malformed."""
    try:
        body = json.loads(content)
        return TokenCount(int(body["count"]), int(body["max_context"]))
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("a node counts with %.200r", content)
        raise NodeFailed(
            "The model node did not count the prompt. Nothing is charged; try again shortly."
        ) from error


def _reported(error: Any) -> NodeStreamError:
    is_late = isinstance(error, dict) and error.get("code") == "deadline_exceeded"
    return (DeadlinePassed if is_late else NodeStreamError)(f"the node reported: {str(error)[:500]}")


async def _drain(body: aiohttp.StreamReader) -> None:
    """Read a complete answer to its end, so that its connection can be reused."""
    with suppress(*UNREACHABLE):
        async with asyncio.timeout(DRAIN_S):
            while await body.readany():
                pass


def _refusal(status: int, content: bytes) -> GatewayError:
    """Convert a node's error: errors that the user can fix are kept, all others become the node's failure."""
    try:
        error = json.loads(content)["error"]
        message, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code, param = f"HTTP {status}", None, None
    if code == ContextTooLong.code:
        return ContextTooLong(message, param=param)
    if code == DeadlineMissed.code:
        return DeadlineMissed(
            "The deadline of the request passed before its answer began. Nothing is charged."
        )
    if status == 404:
        return UnknownModel(message, param="model")
    if status in {400, 413, 422}:
        return BadRequest(message, param=param, code=code)
    if status in {429, 503}:
        return NodeUnavailable("The model node is busy or still loading. Try again shortly.")
    return NodeFailed(f"The model node failed (HTTP {status}).")


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, NodePool] = WeakKeyDictionary()


def node_pool() -> NodePool:
    """The pool of the running event loop, created from the settings at first use."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = NodePool(settings.MODEL_NODES, settings.MODEL_NODE_TOKEN)
    return pool
