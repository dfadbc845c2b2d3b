"""The model nodes that this process can reach: which ones answer, what they serve, and their HTTP client.

One pool per event loop, with persistent connections (aiohttp: a call takes a third of httpx's time). Nodes are the
static ones of the settings, and those that the shared view of the pool names (`NodePool.sync`). A node counts as
reachable while it answers this process; one that stops answering is asked again until it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

from gainshare.capacity.hosts.tokens import node_token
from gainshare.capacity.models import NodeState
from gainshare.capacity.routing.exchange import PoolNode
from gainshare.capacity.routing.shared_view import Serving
from gainshare.gateway.errors import NodeUnavailable, UnknownModel
from gainshare.gateway.nodes.client import UNREACHABLE, TokenCount, chunks_of, refusal, token_count
from gainshare.gateway.requests import GenerationRequest
from gainshare.gateway.trees import is_wanted, no_such_tree, system_fingerprint

logger = logging.getLogger(__name__)

CATALOGUE_S = 10.0  # how long a node's list of models is cached
UNREACHABLE_S = 1.0  # how long a node that refused a connection is skipped
PROBE_S = 1.0  # how often a node with requests of this process is asked whether it lives
PROBE_TIMEOUT_S = 2.5  # a node that is silent for so long is out
COUNT_TIMEOUT_S = 3.0  # for counting a prompt, while another node could do it
DISTRUST_S = 1.0  # after one broken answer; doubled by each further one
MOST_DISTRUST_S = 30.0
KEEP_ALIVE_S = 30.0  # less than a node's timeout, so that this side closes idle connections first
SHORT_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S, sock_connect=2.0)
# Between two chunks of one stream; the whole generation has its own deadline (`generation.py`).
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=120.0)
OWNER_HEADER = "X-Gainshare-Owner"  # as `model/serving/node/app.py` reads it
NO_NODE = "No model node can be reached at the moment. Try again shortly."


@dataclass(eq=False, slots=True)
class ModelNode:
    """This process's state of one node. `out` is set while the node does not answer."""

    url: str
    token: str = ""
    facts: Serving = field(default_factory=lambda: Serving("", 0))
    is_static: bool = True
    is_draining: bool = False
    in_flight: int = 0
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_at: float = float("-inf")  # monotonic seconds
    unreachable_until: float = float("-inf")
    distrusted_until: float = float("-inf")
    n_broken: int = 0  # answers in a row that broke off or contradicted themselves
    out: asyncio.Event = field(default_factory=asyncio.Event)
    probing: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        return self.facts.key

    @property
    def is_reachable(self) -> bool:
        return self.unreachable_until <= time.monotonic() and not self.out.is_set()

    @property
    def is_trusted(self) -> bool:
        return self.distrusted_until <= time.monotonic()

    def serves(self, model: str, tree: str) -> bool:
        """Whether it has `model` and takes new requests for `tree`, by its first digits; "" for the one in use."""
        is_right = is_wanted(self.facts.tree, is_former=self.facts.is_former, wanted=tree)
        return model in self.models and not self.is_draining and is_right

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class NodePool:
    """The nodes and their HTTP client. Belongs to one event loop."""

    def __init__(self, urls: list[str], token: str) -> None:
        slots = settings.NODE_SLOTS
        self.nodes = [ModelNode(url.rstrip("/"), token, Serving(url.rstrip("/"), slots)) for url in urls]
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=SHORT_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def sync(self, rows: Iterable[PoolNode]) -> None:
        """Take over the pool's nodes from the shared view. One that is gone is kept while it answers something."""
        named = {row.key: row for row in rows}
        known = {node.key: node for node in self.nodes if not node.is_static}
        for key, row in named.items():
            node = known.get(key)
            if node is None:
                self.nodes.append(node := ModelNode(row.url, node_token(row.id), is_static=False))
            node.url, node.facts, node.is_draining = (
                row.url,
                Serving.of(row),
                row.state == NodeState.DRAINING,
            )
        for key, node in known.items():
            if key not in named:
                node.is_draining = True  # nothing new
        self.nodes = [node for node in self.nodes if node.is_static or node.key in named or node.in_flight]

    def node(self, key: str) -> ModelNode | None:
        """The node with this key, if it is still known."""
        return next((node for node in self.nodes if node.key == key), None)

    async def models(self) -> dict[str, dict[str, Any]]:
        """Model objects in OpenAI's shape, by name, of all reachable nodes; raises `NodeUnavailable`."""
        reachable = await self._refresh(CATALOGUE_S)
        return {
            name: {
                **model,
                "tree": node.facts.tree,
                "system_fingerprint": system_fingerprint(node.facts.tree),
            }
            for node in reachable
            if not node.facts.is_former
            for name, model in node.models.items()
        }

    async def serving(self, model: str, tree: str = "") -> list[ModelNode]:
        """Reachable nodes that serve `model` from `tree` and take new requests, least busy first.

        Raises `UnknownModel`, `UnknownTree`, `NodeUnavailable`.
        """
        reachable = await self._refresh(CATALOGUE_S)
        if not any(model in node.models for node in reachable):
            reachable = await self._refresh(UNREACHABLE_S)  # a node may have loaded a new model meanwhile
        serving = [node for node in reachable if node.serves(model, tree)]
        if not serving:
            if len(reachable) < len(self.nodes):
                raise NodeUnavailable("A model node cannot be reached at the moment. Try again shortly.")
            if tree and any(model in node.models for node in reachable):
                raise no_such_tree(model, tree, {node.facts.tree for node in reachable if node.facts.tree})
            known = ", ".join(sorted({name for node in reachable for name in node.models}))
            raise UnknownModel(
                f"The model '{model[:100]}' does not exist. Models served here: {known or 'none'}.",
                param="model",
            )
        return sorted(serving, key=lambda node: (not node.is_trusted, node.in_flight))

    def usable(self, model: str, tree: str = "") -> list[ModelNode]:
        """Nodes that serve `model` from `tree`, answer, and take new requests, as known now. Distrusted ones only if all are."""
        able = [node for node in self.nodes if node.is_reachable and node.serves(model, tree)]
        return [node for node in able if node.is_trusted] or able

    async def tokenise(self, request: GenerationRequest) -> tuple[ModelNode, TokenCount]:
        """Count the prompt of `request` at a node that serves its model; return both."""
        serving = await self.serving(request.model, request.tree)
        for i, node in enumerate(serving):
            is_last = i + 1 == len(serving)
            timeout = SHORT_TIMEOUT if is_last else aiohttp.ClientTimeout(total=COUNT_TIMEOUT_S)
            prompt = {"model": request.model, **request.prompt}
            try:
                async with self._http.post(
                    f"{node.url}/tokenize", json=prompt, headers=node.headers, timeout=timeout
                ) as answer:
                    content = await answer.read()
            except TimeoutError:  # a long prompt, or a node that hangs: that is what the probe tells
                self._probe(node)
                continue
            except UNREACHABLE:
                self.pass_over(node)
                continue
            if answer.status == 503:  # it is loading or shutting down; another one may be ready
                self.pass_over(node)
                continue
            if answer.status != 200:
                raise refusal(answer.status, content)
            return node, token_count(content)
        raise NodeUnavailable(NO_NODE)

    @asynccontextmanager
    async def generate(
        self, node: ModelNode, request: GenerationRequest, max_tokens: int, *, owner: str = ""
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Start a generation of the tenant `owner` and yield its chunks' iterator; leaving the block cancels it.

        Raises `GatewayError` if the node refuses; the iterator raises `NodeStreamError`.
        """
        node.in_flight += 1
        self._probe(node)
        try:
            url = f"{node.url}/v1/{request.endpoint.value}"
            try:
                response = await self._http.post(
                    url,
                    json=request.node_body(max_tokens),
                    headers={**node.headers, **({OWNER_HEADER: owner} if owner else {})},
                    timeout=STREAM_TIMEOUT,
                )
            except UNREACHABLE:
                self.pass_over(node)
                raise NodeUnavailable("The model node cannot be reached. Try again shortly.") from None
            try:
                if response.status != 200:
                    raise refusal(response.status, await response.read())
                async with aclosing(chunks_of(response.content)) as chunks:
                    yield chunks
            finally:
                # Closing an unfinished response closes its connection, which tells the node to stop.
                response.close()
        finally:
            node.in_flight -= 1

    async def aclose(self) -> None:
        tasks = [task for node in self.nodes for task in (node.probing, node.asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.close()

    def pass_over(self, node: ModelNode) -> None:
        """Skip `node` for a moment, then ask for its models again. Its requests without a first token may leave it."""
        node.unreachable_until = time.monotonic() + UNREACHABLE_S
        node.asked_at = float("-inf")
        node.out.set()

    def distrust(self, node: ModelNode) -> None:
        """Use `node` only where there is no other, for longer with each answer in a row that it broke."""
        seconds = min(DISTRUST_S * 2**node.n_broken, MOST_DISTRUST_S)
        node.n_broken = min(node.n_broken + 1, 16)
        node.distrusted_until = time.monotonic() + seconds

    def trust(self, node: ModelNode) -> None:
        """`node` has answered a request to its end."""
        node.n_broken, node.distrusted_until = 0, float("-inf")

    # -- which nodes answer -----------------------------------------------------------------------------

    async def _refresh(self, max_age_s: float) -> list[ModelNode]:
        """Ask every node whose list is older than `max_age_s`; return the nodes that can be reached.

        Nothing waits for a node that was out while another one answers.
        """
        now = time.monotonic()
        stale = [n for n in self.nodes if now - n.asked_at >= max_age_s and n.unreachable_until <= now]
        asking = {node: self._ask_once(node) for node in stale}
        awaited = [task for node, task in asking.items() if not node.out.is_set()]
        if awaited:
            await asyncio.wait(awaited)
        if not self._reachable() and asking:
            await asyncio.wait(asking.values())
        if not (reachable := self._reachable()):
            raise NodeUnavailable(NO_NODE)
        return reachable

    def _reachable(self) -> list[ModelNode]:
        return [node for node in self.nodes if node.is_reachable]

    def _ask_once(self, node: ModelNode) -> asyncio.Task[None]:
        """The running question to `node`, or a new one. Callers that leave do not end it for the others."""
        if node.asking is None or node.asking.done():
            node.asking = asyncio.create_task(self._ask(node))
        return node.asking

    async def _ask(self, node: ModelNode) -> None:
        try:
            async with self._http.get(
                f"{node.url}/v1/models", raise_for_status=True, headers=node.headers, timeout=PROBE_TIMEOUT
            ) as answer:
                listed = json.loads(await answer.read())["data"]
            node.models = {str(model["id"]): model for model in listed}
        except (*UNREACHABLE, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("the node %s did not list its models: %s", node.url, error)
            self.pass_over(node)
        else:
            node.asked_at = time.monotonic()
            node.unreachable_until = float("-inf")
            node.out.clear()

    def _probe(self, node: ModelNode) -> None:
        """Ask `node` each second whether it lives, as long as it has requests of this process."""
        if node.probing is None or node.probing.done():
            node.probing = asyncio.create_task(self._keep_probing(node))

    async def _keep_probing(self, node: ModelNode) -> None:
        while True:
            if not await self._lives(node):
                logger.warning("the node %s does not answer", node.url)
                self.pass_over(node)
            elif node.out.is_set():
                await self._ask_once(node)
            if not node.in_flight and not node.out.is_set():
                return
            if node not in self.nodes:
                return
            await asyncio.sleep(PROBE_S)

    async def _lives(self, node: ModelNode) -> bool:
        """Whether the node answers, and not that its model is loading or has failed."""
        try:
            async with self._http.get(
                f"{node.url}/health", headers=node.headers, timeout=PROBE_TIMEOUT
            ) as answer:
                await answer.read()
                return answer.status < 500
        except UNREACHABLE:
            return False


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, NodePool] = WeakKeyDictionary()


def node_pool() -> NodePool:
    """The pool of the running event loop, created from the settings at first use."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = NodePool(settings.MODEL_NODES, settings.MODEL_NODE_TOKEN)
    return pool
