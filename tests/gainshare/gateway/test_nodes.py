"""The node pool and a generation's end, against nodes that misbehave on purpose. No database.

The nodes are HTTP servers in this process; settling is caught before it reaches the ledger.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from django.utils import timezone

from gainshare.gateway import generation as generation_module
from gainshare.gateway.api import EventStream
from gainshare.gateway.errors import (
    BadRequest,
    ContextTooLong,
    DeadlineMissed,
    NodeFailed,
    NodeUnavailable,
    TookTooLong,
    UnknownModel,
)
from gainshare.gateway.generation import Generation
from gainshare.gateway.nodes import ModelNode, NodePool
from gainshare.gateway.requests import Endpoint, GenerationRequest, read_request
from gainshare.gateway.services import Admission, owner_name
from gainshare.gateway.wire import event

pytestmark = pytest.mark.slow

Answer = web.Response | Awaitable[web.StreamResponse] | None
Handler = Callable[
    [str, web.Request], Answer
]  # which node is asked, and for what; None breaks the connection off


def request(model: str = "tiny", *, stream: bool = True) -> GenerationRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    return read_request(json.dumps(body).encode(), Endpoint.CHAT)


def serving(*models: str) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": model} for model in models]})


class Nodes:
    """Two nodes, a and b, that answer as a test's handler says, and the pools that talk to them."""

    def __init__(self) -> None:
        self.handler: Handler = lambda name, sent: serving("tiny")
        self.servers: dict[str, TestServer] = {}
        self.pools: list[NodePool] = []
        self.frozen: set[str] = set()  # these do not answer the question whether they live

    async def start(self) -> None:
        for name in ("a", "b"):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answering(name))
            self.servers[name] = TestServer(app)
            await self.servers[name].start_server()

    def _answering(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(sent: web.Request) -> web.StreamResponse:
            if sent.path == "/health":
                if name in self.frozen:
                    await asyncio.Event().wait()
                return web.json_response({"status": "ok"})
            given = self.handler(name, sent)
            if given is None:
                assert sent.transport is not None
                sent.transport.abort()
                return web.Response()
            return given if isinstance(given, web.Response) else await given

        return answer

    def url(self, name: str) -> str:
        return str(self.servers[name].make_url("")).rstrip("/")

    def pool(self, handler: Handler, names: str = "ab") -> NodePool:
        self.handler = handler
        self.pools.append(NodePool([self.url(name) for name in names], "token"))
        return self.pools[-1]

    async def stop(self) -> None:
        for pool in self.pools:
            await pool.aclose()
        for server in self.servers.values():
            await server.close()


@pytest_asyncio.fixture
async def nodes() -> AsyncIterator[Nodes]:
    started = Nodes()
    await started.start()
    yield started
    await started.stop()


async def test_a_node_that_is_down_is_passed_over_and_the_other_one_asked(nodes: Nodes) -> None:
    asked = []

    def handler(name: str, sent: web.Request) -> Answer:
        asked.append((name, sent.path))
        assert sent.headers["authorization"] == "Bearer token"
        if sent.path == "/v1/models":
            return serving("tiny")
        return None if name == "a" else web.json_response({"count": 4, "max_context": 512})

    pool = nodes.pool(handler)
    node, count = await pool.tokenise(request())
    assert (node.url, count.prompt_tokens, count.max_context) == (nodes.url("b"), 4, 512)
    await pool.tokenise(request())
    assert asked.count(("a", "/tokenize")) == 1


async def test_a_node_that_refuses_connections_is_passed_over(nodes: Nodes) -> None:
    pool = nodes.pool(lambda name, sent: serving("tiny"))
    await nodes.servers["a"].close()
    assert [node.url for node in await pool.serving("tiny")] == [nodes.url("b")]


async def test_line_breaks_of_unicode_within_a_token_do_not_break_the_stream(nodes: Nodes) -> None:
    texts = ["a\u2028b", "c\u0085d", "e\x1cf", "plain"]
    sent_events = [f"data: {json.dumps({'text': text}, ensure_ascii=False)}\r\n\r\n" for text in texts]
    body = "".join([": a comment\r\n", *sent_events, "data: [DONE]\n\n"]).encode()
    pool = nodes.pool(lambda name, sent: web.Response(body=body))
    async with pool.generate(pool.nodes[0], request(), 8) as chunks:
        assert [chunk["text"] async for chunk in chunks] == texts


async def test_the_connection_of_a_complete_stream_serves_the_next_request(nodes: Nodes) -> None:
    peers = []

    def handler(name: str, sent: web.Request) -> Answer:
        assert sent.transport is not None
        peers.append(sent.transport.get_extra_info("peername"))
        return web.Response(body=b'data: {"text": "a"}\n\ndata: [DONE]\n\n')

    pool = nodes.pool(handler)
    for _ in range(2):
        async with pool.generate(pool.nodes[0], request(), 8) as chunks:
            assert [chunk["text"] async for chunk in chunks] == ["a"]
    assert len(peers) == 2
    assert len(set(peers)) == 1


def test_events_are_ascii() -> None:
    assert event({"text": "a\u2028b\u0085"}) == b'data: {"text":"a\\u2028b\\u0085"}\n\n'


async def test_the_less_busy_node_is_asked_first(nodes: Nodes) -> None:
    pool = nodes.pool(lambda name, sent: serving("tiny"))
    pool.nodes[0].in_flight = 2
    assert [node.url for node in await pool.serving("tiny")] == [nodes.url("b"), nodes.url("a")]


async def test_unknown_is_told_from_unreachable(nodes: Nodes) -> None:
    with pytest.raises(UnknownModel, match="Models served here: tiny"):
        await nodes.pool(lambda name, sent: serving("tiny")).serving("other")
    with pytest.raises(NodeUnavailable):
        await nodes.pool(lambda name, sent: None if name == "a" else serving("tiny")).serving("other")
    with pytest.raises(NodeUnavailable):
        await nodes.pool(lambda name, sent: web.Response(status=503)).serving("tiny")
    with pytest.raises(NodeUnavailable):
        await nodes.pool(lambda name, sent: serving("tiny"), names="").models()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "invalid_value", BadRequest),
        (400, "context_length_exceeded", ContextTooLong),
        (404, "model_not_found", UnknownModel),
        (429, "queue_full", NodeUnavailable),
        (503, "loading", NodeUnavailable),
        (500, "model_failed", NodeFailed),
        (401, "invalid_token", NodeFailed),
        (504, "deadline_exceeded", DeadlineMissed),
    ],
)
async def test_a_nodes_refusal_is_told_in_the_gateways_terms(
    nodes: Nodes, status: int, code: str, error: type[Exception]
) -> None:
    def handler(name: str, sent: web.Request) -> Answer:
        if sent.path == "/v1/models":
            return serving("tiny")
        return web.json_response({"error": {"message": "no", "code": code, "param": None}}, status=status)

    with pytest.raises(error):
        await nodes.pool(handler).tokenise(request())


async def test_a_node_that_counts_otherwise_than_ours_fails_in_plain_words(nodes: Nodes) -> None:
    def handler(name: str, sent: web.Request) -> Answer:
        counts_as_vllm = web.json_response({"count": 3, "max_model_len": 100})
        return serving("tiny") if sent.path == "/v1/models" else counts_as_vllm

    with pytest.raises(NodeFailed, match="did not count"):
        await nodes.pool(handler).tokenise(request())


def chunk(tokens: int, finish: str | None = None, prompt: int = 3) -> bytes:
    document = {
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": tokens},
    }
    return f"data: {json.dumps(document)}\n\n".encode()


class Ended:
    """Catches what would be recorded and settled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcomes: list[dict[str, Any]] = []

        async def record_and_settle(admission: Admission, outcome: dict[str, Any]) -> None:
            self.outcomes.append(outcome)

        monkeypatch.setattr(generation_module, "record_and_settle", record_and_settle)

    @property
    def only(self) -> tuple[str, str, int]:
        (outcome,) = self.outcomes
        return str(outcome["status"]), outcome["error_code"], outcome["metered"].completion_tokens


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Ended:
    return Ended(monkeypatch)


class Body:
    """The body of a node's answer: these pieces, then silence until the gateway leaves, if `hangs`."""

    def __init__(self, *pieces: bytes, hangs: bool = False) -> None:
        self.pieces, self.hangs, self.is_closed = pieces, hangs, False

    async def send(self, sent: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(sent)
            for piece in self.pieces:
                await response.write(piece)
            if self.hangs:
                await asyncio.Event().wait()
            return response
        finally:
            self.is_closed = True

    async def closed(self) -> None:
        """Returns once the node has seen that its answer is no longer read."""
        async with asyncio.timeout(5):
            while not self.is_closed:
                await asyncio.sleep(0.01)


class OnePlace:
    """A place at one node, with no other to move to."""

    def __init__(self, node: ModelNode, asked: GenerationRequest) -> None:
        self.node: ModelNode | None = node
        self._node, self._asked = node, asked
        self.n_tokens = self.n_freed = 0

    async def wait(self) -> ModelNode:
        return self._node

    async def move(self) -> bool:
        return False

    def can_move(self) -> bool:
        return False

    def body(self) -> GenerationRequest:
        return self._asked

    def sent(self) -> None:
        pass

    def token(self, after_s: float) -> None:
        self.n_tokens += 1

    def ended(self, *, tokens: int, is_whole: bool, has_failed: bool) -> None:
        pass

    def freed(self) -> None:
        self.n_freed += 1


async def begun(nodes: Nodes, body: Body, *, hold_s: float = 60.0, stream: bool = True) -> Generation:
    pool = nodes.pool(
        lambda name, sent: serving("tiny") if sent.path == "/v1/models" else body.send(sent), names="a"
    )
    (node,) = await pool.serving("tiny")
    expires_at = timezone.now() + timedelta(seconds=hold_s)
    admission = Admission(uuid4(), prompt_tokens=3, max_tokens=5, hold_microcredits=9, expires_at=expires_at)
    asked = request(stream=stream)
    generation = Generation(pool=pool, place=OnePlace(node, asked), request=asked, admission=admission)
    await generation.begin()
    return generation


async def test_a_complete_answer_ends_completed_and_its_stream_is_closed(nodes: Nodes, ended: Ended) -> None:
    body = Body(chunk(1), chunk(2, "stop"), b"data: [DONE]\n\n")
    generation = await begun(nodes, body)
    assert len([piece async for piece in generation.chunks()]) == 2
    assert ended.only == ("completed", "", 2)
    await body.closed()


@pytest.mark.parametrize(
    "pieces",
    [
        (chunk(1), b"data: [DONE]\n\n"),  # no reason for the end
        (chunk(1),),  # no end
        (chunk(1), chunk(9)),  # more than was paid for
        (chunk(1), chunk(0)),  # counts backwards
        (chunk(1), chunk(2, prompt=4)),  # another prompt
        (chunk(1), b"data: {\n\n"),
        (chunk(1), b"data: 5\n\n"),
        (chunk(1), b"data: " + b"[" * 100_000 + b"\n\n"),
        (chunk(1), b'data: {"choices": [null]}\n\n'),
        (chunk(1), b'data: {"error": {"message": "broken"}}\n\n'),
        (chunk(1), b'data: {"choices": [{"delta": {"content": "free"}}]}\n\n'),
    ],
)
async def test_a_node_that_contradicts_itself_fails_and_only_sound_counts_are_billed(
    nodes: Nodes, ended: Ended, pieces: tuple[bytes, ...]
) -> None:
    generation = await begun(nodes, Body(*pieces))
    with pytest.raises(NodeFailed, match="only the 1 tokens"):
        [piece async for piece in generation.chunks()]
    assert ended.only == ("failed", "node_failed", 1)


async def test_a_missed_deadline_is_told_as_one_and_costs_nothing(nodes: Nodes, ended: Ended) -> None:
    late = {"error": {"message": "too late", "code": "deadline_exceeded"}}
    generation = await begun(nodes, Body(f"data: {json.dumps(late)}\n\n".encode()))
    with pytest.raises(DeadlineMissed, match="deadline"):
        [piece async for piece in generation.chunks()]
    assert ended.only == ("failed", "deadline_exceeded", 0)


async def test_a_node_that_shuts_down_is_passed_over_before_anything_is_held(nodes: Nodes) -> None:
    def handler(name: str, sent: web.Request) -> Answer:
        if sent.path == "/v1/models":
            return serving("tiny")
        if name == "a":
            return web.json_response({"error": {"message": "no", "code": "shutting_down"}}, status=503)
        return web.json_response({"count": 4, "max_context": 512})

    node, _ = await nodes.pool(handler).tokenise(request())
    assert node.url == nodes.url("b")


async def test_nodes_are_told_whose_request_it_is_without_a_name(nodes: Nodes) -> None:
    owners = []

    def handler(name: str, sent: web.Request) -> Answer:
        owners.append(sent.headers.get("X-Gainshare-Owner"))
        return web.Response(body=b"data: [DONE]\n\n")

    pool = nodes.pool(handler)
    for owner in (owner_name(7), owner_name(8), owner_name(7)):
        async with pool.generate(pool.nodes[0], request(), 8, owner=owner) as chunks:
            assert [chunk async for chunk in chunks] == []
    first, second, third = owners
    assert first == third != second and first is not None and len(first) == 32


async def test_a_failed_whole_answer_bills_nothing(nodes: Nodes, ended: Ended) -> None:
    generation = await begun(nodes, Body(chunk(1)), stream=False)
    with pytest.raises(NodeFailed, match="nothing is charged"):
        [piece async for piece in generation.chunks()]
    assert ended.only == ("failed", "node_failed", 0)


async def test_a_silent_node_is_left_before_the_hold_lapses(nodes: Nodes, ended: Ended) -> None:
    body = Body(chunk(1), hangs=True)
    generation = await begun(nodes, body, hold_s=0.5)
    with pytest.raises(TookTooLong):
        [piece async for piece in generation.chunks()]
    assert ended.only == ("failed", "timeout", 1)
    assert timezone.now() < generation.admission.expires_at
    await body.closed()


async def test_a_client_that_stops_reading_cannot_outlast_the_hold(nodes: Nodes, ended: Ended) -> None:
    body = Body(chunk(1), chunk(2), hangs=True)
    generation = await begun(nodes, body, hold_s=4)  # which leaves 0.2 s to be late
    stalled = generation.chunks()
    await anext(stalled)
    async with asyncio.timeout(15):
        while not ended.outcomes:
            await asyncio.sleep(0.01)
    await body.closed()
    assert ended.only == ("failed", "timeout", 1)
    assert timezone.now() < generation.admission.expires_at


async def test_a_response_dropped_before_its_first_event_is_cancelled(nodes: Nodes, ended: Ended) -> None:
    body = Body(chunk(1), hangs=True)
    generation = await begun(nodes, body)

    async def never_started() -> AsyncIterator[bytes]:
        yield b""

    response = EventStream(generation, never_started())
    await asyncio.to_thread(response.close)
    async with asyncio.timeout(5):
        while not ended.outcomes:
            await asyncio.sleep(0.01)
    await body.closed()
    assert ended.only == ("cancelled", "", 0)


async def test_only_the_first_end_counts(nodes: Nodes, ended: Ended) -> None:
    generation = await begun(nodes, Body(chunk(1, "stop"), b"data: [DONE]\n\n"))
    assert len([piece async for piece in generation.chunks()]) == 1
    await generation.fail("late")
    assert ended.only == ("completed", "", 1)
