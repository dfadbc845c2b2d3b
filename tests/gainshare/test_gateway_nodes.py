"""The node pool and a generation's end, against nodes that misbehave on purpose. No database, no network.

The nodes are an `httpx.MockTransport`; settling is caught before it reaches the ledger.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.utils import timezone

from gainshare.gateway import generation as generation_module
from gainshare.gateway.api import EventStream
from gainshare.gateway.errors import (
    BadRequest,
    ContextTooLong,
    NodeFailed,
    NodeUnavailable,
    TookTooLong,
    UnknownModel,
)
from gainshare.gateway.generation import Generation
from gainshare.gateway.nodes import NodePool
from gainshare.gateway.requests import Endpoint, GenerationRequest, read_request
from gainshare.gateway.services import Admission
from gainshare.gateway.wire import event

Handler = Callable[[httpx.Request], httpx.Response]
NODES = ["http://a", "http://b"]


def request(model: str = "tiny", *, stream: bool = True) -> GenerationRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    return read_request(json.dumps(body).encode(), Endpoint.CHAT)


def serving(*models: str) -> httpx.Response:
    return httpx.Response(200, json={"object": "list", "data": [{"id": model} for model in models]})


def pool_of(handler: Handler, urls: list[str] = NODES) -> NodePool:
    return NodePool(urls, "token", httpx.MockTransport(handler))


async def test_a_node_that_is_down_is_passed_over_and_the_other_one_asked() -> None:
    asked = []

    def handler(sent: httpx.Request) -> httpx.Response:
        asked.append((sent.url.host, sent.url.path))
        assert sent.headers["authorization"] == "Bearer token"
        if sent.url.path == "/v1/models":
            return serving("tiny")
        if sent.url.host == "a":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"count": 4, "max_context": 512})

    pool = pool_of(handler)
    node, count = await pool.tokenise(request())
    assert (node.url, count.prompt_tokens, count.max_context) == ("http://b", 4, 512)
    await pool.tokenise(request())
    assert asked.count(("a", "/tokenize")) == 1


async def test_line_breaks_of_unicode_within_a_token_do_not_break_the_stream() -> None:
    texts = ["a\u2028b", "c\u0085d", "e\x1cf", "plain"]
    sent_events = [f"data: {json.dumps({'text': text}, ensure_ascii=False)}\r\n\r\n" for text in texts]
    body = "".join([": a comment\r\n", *sent_events, "data: [DONE]\n\n"]).encode()
    pool = pool_of(lambda sent: httpx.Response(200, content=body))
    async with pool.generate(pool.nodes[0], request(), 8) as chunks:
        assert [chunk["text"] async for chunk in chunks] == texts


def test_events_are_ascii() -> None:
    assert event({"text": "a\u2028b\u0085"}) == b'data: {"text":"a\\u2028b\\u0085"}\n\n'


async def test_the_less_busy_node_is_asked_first() -> None:
    pool = pool_of(lambda sent: serving("tiny"))
    pool.nodes[0].in_flight = 2
    assert [node.url for node in await pool.serving("tiny")] == ["http://b", "http://a"]


async def test_unknown_is_told_from_unreachable() -> None:
    def only_b(sent: httpx.Request) -> httpx.Response:
        if sent.url.host == "a":
            raise httpx.ConnectError("refused")
        return serving("tiny")

    with pytest.raises(UnknownModel, match="Served here: tiny"):
        await pool_of(lambda sent: serving("tiny")).serving("other")
    with pytest.raises(NodeUnavailable):
        await pool_of(only_b).serving("other")
    with pytest.raises(NodeUnavailable):
        await pool_of(lambda sent: httpx.Response(503)).serving("tiny")
    with pytest.raises(NodeUnavailable):
        await pool_of(lambda sent: serving("tiny"), []).models()


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
    ],
)
async def test_a_nodes_refusal_is_told_in_the_gateways_terms(
    status: int, code: str, error: type[Exception]
) -> None:
    def handler(sent: httpx.Request) -> httpx.Response:
        if sent.url.path == "/v1/models":
            return serving("tiny")
        return httpx.Response(status, json={"error": {"message": "no", "code": code, "param": None}})

    with pytest.raises(error):
        await pool_of(handler).tokenise(request())


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


class Body(httpx.AsyncByteStream):
    """The body of a node's answer: these pieces, then silence until it is closed, if `hangs`."""

    def __init__(self, *pieces: bytes, hangs: bool = False) -> None:
        self.pieces, self.hangs, self.is_closed = pieces, hangs, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        if self.hangs:
            await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.is_closed = True


async def begun(body: Body, *, hold_s: float = 60.0, stream: bool = True) -> Generation:
    pool = pool_of(
        lambda sent: serving("tiny") if sent.url.path == "/v1/models" else httpx.Response(200, stream=body)
    )
    (node, _) = await pool.serving("tiny")
    expires_at = timezone.now() + timedelta(seconds=hold_s)
    admission = Admission(uuid4(), prompt_tokens=3, max_tokens=5, hold_microcredits=9, expires_at=expires_at)
    generation = Generation(pool=pool, node=node, request=request(stream=stream), admission=admission)
    await generation.begin()
    return generation


async def test_a_complete_answer_ends_completed_and_its_stream_is_closed(ended: Ended) -> None:
    body = Body(chunk(1), chunk(2, "stop"), b"data: [DONE]\n\n")
    generation = await begun(body)
    assert len([piece async for piece in generation.chunks()]) == 2
    assert ended.only == ("completed", "", 2)
    assert body.is_closed


@pytest.mark.parametrize(
    "pieces",
    [
        (chunk(1), b"data: [DONE]\n\n"),  # no reason for the end
        (chunk(1),),  # no end
        (chunk(1), chunk(9)),  # more than was paid for
        (chunk(1), chunk(0)),  # counts backwards
        (chunk(1), chunk(2, prompt=4)),  # another prompt
        (chunk(1), b"data: {\n\n"),
        (chunk(1), b'data: {"error": {"message": "broken"}}\n\n'),
        (chunk(1), b'data: {"choices": [{"delta": {"content": "free"}}]}\n\n'),
    ],
)
async def test_a_node_that_contradicts_itself_fails_and_only_sound_counts_are_billed(
    ended: Ended, pieces: tuple[bytes, ...]
) -> None:
    generation = await begun(Body(*pieces))
    with pytest.raises(NodeFailed, match="only the 1 tokens"):
        [piece async for piece in generation.chunks()]
    assert ended.only == ("failed", "node_failed", 1)


async def test_a_failed_whole_answer_bills_nothing(ended: Ended) -> None:
    generation = await begun(Body(chunk(1)), stream=False)
    with pytest.raises(NodeFailed, match="nothing is charged"):
        [piece async for piece in generation.chunks()]
    assert ended.only == ("failed", "node_failed", 0)


async def test_a_silent_node_is_left_before_the_hold_lapses(ended: Ended) -> None:
    body = Body(chunk(1), hangs=True)
    generation = await begun(body, hold_s=0.5)
    with pytest.raises(TookTooLong):
        [piece async for piece in generation.chunks()]
    assert ended.only == ("failed", "timeout", 1)
    assert timezone.now() < generation.admission.expires_at
    assert body.is_closed


async def test_a_client_that_stops_reading_cannot_outlast_the_hold(ended: Ended) -> None:
    body = Body(chunk(1), chunk(2), hangs=True)
    generation = await begun(body, hold_s=0.5)
    stalled = generation.chunks()
    await anext(stalled)
    async with asyncio.timeout(5):
        while not (ended.outcomes and body.is_closed):
            await asyncio.sleep(0.01)
    assert ended.only == ("failed", "timeout", 1)
    assert timezone.now() < generation.admission.expires_at


async def test_a_response_dropped_before_its_first_event_is_cancelled(ended: Ended) -> None:
    body = Body(chunk(1), hangs=True)
    generation = await begun(body)

    async def never_started() -> AsyncIterator[bytes]:
        yield b""

    response = EventStream(generation, never_started())
    await asyncio.to_thread(response.close)
    async with asyncio.timeout(5):
        while not (ended.outcomes and body.is_closed):
            await asyncio.sleep(0.01)
    assert ended.only == ("cancelled", "", 0)


async def test_only_the_first_end_counts(ended: Ended) -> None:
    generation = await begun(Body(chunk(1, "stop"), b"data: [DONE]\n\n"))
    assert len([piece async for piece in generation.chunks()]) == 1
    await generation.fail("late")
    assert ended.only == ("completed", "", 1)
