"""Talks to model nodes over HTTP: which models they serve, how long a prompt is, and a stream of chunks.

One pool per event loop, with connections kept alive between requests (aiohttp: a call costs a third of httpx's time).
Among the nodes that serve a model the one with the fewest requests of this process in flight is asked first.
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

CATALOGUE_S = 10.0  # how long a node's list of models is trusted
UNREACHABLE_S = 1.0  # how long a node that refused a connection is passed over
DRAIN_S = 1.0  # how long a node may take to end an answer after its last event
KEEP_ALIVE_S = 30.0  # less than a node's own, so that this side closes idle connections first
SHORT_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
# Between two chunks of one stream; the whole generation has its own deadline (`generation.py`).
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=120.0)
OWNER_HEADER = "X-Gainshare-Owner"  # as `model/serving/node/app.py` reads it
UNREACHABLE = (aiohttp.ClientError, TimeoutError)


class NodeStreamError(Exception):
    """The node's stream ended before it was complete; the message is for the log."""


class DeadlinePassed(NodeStreamError):
    """The node did not begin the answer before the deadline that the request named."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The length of a prompt in tokens, and of the model's context."""

    prompt_tokens: int
    max_context: int


@dataclass(eq=False, slots=True)
class ModelNode:
    """One node as this process knows it."""

    url: str
    in_flight: int = 0
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_at: float = float("-inf")  # monotonic seconds
    unreachable_until: float = float("-inf")


class NodePool:
    """The configured nodes and one HTTP client for all of them. Belongs to one event loop."""

    def __init__(self, urls: list[str], token: str) -> None:
        self.nodes = [ModelNode(url.rstrip("/")) for url in urls]
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=SHORT_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def models(self) -> dict[str, dict[str, Any]]:
        """Name -> OpenAI's model object of everything that a reachable node serves; raises `NodeUnavailable`."""
        reachable = await self._refresh(CATALOGUE_S)
        return {name: model for node in reachable for name, model in node.models.items()}

    async def serving(self, model: str) -> list[ModelNode]:
        """The reachable nodes that serve `model`, least busy first; raises `UnknownModel`, `NodeUnavailable`."""
        reachable = await self._refresh(CATALOGUE_S)
        if not any(model in node.models for node in reachable):
            reachable = await self._refresh(UNREACHABLE_S)  # a node may have been given a new model just now
        serving = [node for node in reachable if model in node.models]
        if not serving:
            if len(reachable) < len(self.nodes):
                raise NodeUnavailable("A model node is not reachable at the moment; try again shortly.")
            known = ", ".join(sorted({name for node in reachable for name in node.models}))
            raise UnknownModel(
                f"The model '{model[:100]}' does not exist. Served here: {known or 'none'}.", param="model"
            )
        return sorted(serving, key=lambda node: node.in_flight)

    async def tokenise(self, request: GenerationRequest) -> tuple[ModelNode, TokenCount]:
        """A node for `request` and the prompt's length there."""
        for node in await self.serving(request.model):
            prompt = {"model": request.model, **request.prompt}
            try:
                async with self._http.post(f"{node.url}/tokenize", json=prompt) as answer:
                    content = await answer.read()
            except UNREACHABLE:
                self._pass_over(node)
                continue
            if answer.status == 503:  # it loads or shuts down: another one may be ready
                self._pass_over(node)
                continue
            if answer.status != 200:
                raise _refusal(answer.status, content)
            return node, _token_count(content)
        raise NodeUnavailable("No model node can be reached at the moment; try again shortly.")

    @asynccontextmanager
    async def generate(
        self, node: ModelNode, request: GenerationRequest, max_tokens: int, *, owner: str = ""
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Start a generation for the account that nodes know as `owner`, and yield the iterator of its chunks; leaving the block cancels it at the node.

        Raises what the node refuses as `GatewayError`; the iterator raises `NodeStreamError`.
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
                raise NodeUnavailable("The model node cannot be reached; try again shortly.") from None
            try:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                async with aclosing(_chunks(response.content)) as chunks:
                    yield chunks
            finally:
                # Closing an unfinished response closes its connection: that is what tells the node to stop.
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
            raise NodeUnavailable("No model node can be reached at the moment; try again shortly.")
        return reachable

    async def _ask(self, node: ModelNode) -> None:
        try:
            async with self._http.get(f"{node.url}/v1/models", raise_for_status=True) as answer:
                listed = json.loads(await answer.read())["data"]
            node.models = {str(model["id"]): model for model in listed}
        except (*UNREACHABLE, ValueError, KeyError, TypeError) as error:
            logger.warning("the node %s does not say what it serves: %s", node.url, error)
            self._pass_over(node)
        else:
            node.asked_at = time.monotonic()
            node.unreachable_until = float("-inf")

    def _pass_over(self, node: ModelNode) -> None:
        """Leave `node` alone for a moment, then ask it again what it serves."""
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
    """What a node answers when it has counted a prompt. Raises `NodeFailed` where it is something else."""
    try:
        body = json.loads(content)
        return TokenCount(int(body["count"]), int(body["max_context"]))
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("a node counts with %.200r", content)
        raise NodeFailed("The model node did not count the prompt; nothing is charged.") from error


def _reported(error: Any) -> NodeStreamError:
    is_late = isinstance(error, dict) and error.get("code") == "deadline_exceeded"
    return (DeadlinePassed if is_late else NodeStreamError)(f"the node reported: {str(error)[:500]}")


async def _drain(body: aiohttp.StreamReader) -> None:
    """Read to the end of an answer that is complete, so that its connection can serve the next request."""
    with suppress(*UNREACHABLE):
        async with asyncio.timeout(DRAIN_S):
            while await body.readany():
                pass


def _refusal(status: int, content: bytes) -> GatewayError:
    """The node's refusal in the gateway's terms: what the user can change stays, the rest is the node's fault."""
    try:
        error = json.loads(content)["error"]
        message, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code, param = f"HTTP {status}", None, None
    if code == ContextTooLong.code:
        return ContextTooLong(message, param=param)
    if code == DeadlineMissed.code:
        return DeadlineMissed(
            "The deadline of the request passed before its answer began; nothing is charged."
        )
    if status == 404:
        return UnknownModel(message, param="model")
    if status in {400, 413, 422}:
        return BadRequest(message, param=param, code=code)
    if status in {429, 503}:
        return NodeUnavailable("The model node is busy or still loading; try again shortly.")
    return NodeFailed(f"The model node failed (HTTP {status}).")


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, NodePool] = WeakKeyDictionary()


def node_pool() -> NodePool:
    """The pool of the running event loop, made from the settings at first use."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = NodePool(settings.MODEL_NODES, settings.MODEL_NODE_TOKEN)
    return pool
