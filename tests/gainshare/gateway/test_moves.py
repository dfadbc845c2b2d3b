"""Requests and the nodes that answer them: moves before the first token, waiting, limits. Real PostgreSQL.

The nodes are HTTP servers in this process that misbehave on purpose; the rest is the gateway's own ASGI application.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from django.utils import timezone

from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import CachedBlock, NodeWindow, Seat, ServedModel
from gainshare.capacity.routing import seats
from gainshare.capacity.routing.load import load_of
from gainshare.gateway import waiting
from gainshare.gateway.asgi import with_gateway
from gainshare.gateway.database import close_connections, in_database
from gainshare.gateway.models import UsageRecord
from gainshare.gateway.nodes import pool as pool_module
from gainshare.gateway.nodes.sharing import pool_and_sharing
from gainshare.ledger import services as ledger
from gainshare.ledger.price_book import publish_price
from tests.gainshare.capacity.pool_world import make_class, make_host
from tests.gainshare.ledger.ledger_world import World

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

MODEL = "tiny"
PRICES = {"cached_input": 100_000, "fresh_input": 1_000_000, "output": 4_000_000}
PROMPT = 3  # tokens, as the nodes count
GRANTED = 100_000
OUT_S = 12.0  # within which a silent node is out, on a busy machine


def chunk(tokens: int, finish: str | None = None, *, prompt: int = PROMPT, role: str | None = None) -> bytes:
    delta = {"role": role} if role else {"content": "x"}
    document = {
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": tokens},
    }
    return f"data: {json.dumps(document)}\n\n".encode()


ROLE = chunk(0, role="assistant")
WHOLE = (ROLE, chunk(1), chunk(2, "stop"), b"data: [DONE]\n\n")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandIn:
    """A node whose answers are given by `answer`; `frozen` makes it accept connections and say nothing."""

    def __init__(self) -> None:
        self.answer: Answer = self.whole
        self.frozen = False
        self.n_asked = self.n_running = self.most_running = 0
        self.go = asyncio.Event()  # lets an answer that hangs continue
        self.left = asyncio.Event()  # an answer that hung has ended
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self.n_prompt = PROMPT

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self.server = TestServer(app)
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")

    async def _serve(self, sent: web.Request) -> web.StreamResponse:
        if self.frozen:
            await self._silence()
        if sent.path == "/health":
            return web.json_response({"status": "ok"})
        if sent.path == "/v1/models":
            return web.json_response({"data": [{"id": MODEL}]})
        if sent.path == "/tokenize":
            return web.json_response({"count": self.n_prompt, "max_context": 2048})
        self.n_asked += 1
        self.bodies.append(await sent.json())
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        try:
            return await self.answer(sent)
        finally:
            self.n_running -= 1

    async def _silence(self) -> None:
        while self.frozen:
            await asyncio.sleep(0.05)

    async def stream(self, sent: web.Request, *pieces: bytes, pause_s: float = 0.0) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(sent)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pause_s)
        return response

    async def whole(self, sent: web.Request) -> web.StreamResponse:
        if self.n_prompt != PROMPT:
            n = self.n_prompt
            return await self.stream(sent, chunk(2, "stop", prompt=n), b"data: [DONE]\n\n")
        return await self.stream(sent, *WHOLE)

    async def slow(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, *WHOLE, pause_s=0.2)

    async def breaks_before(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, ROLE)

    async def breaks_after(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, ROLE, chunk(1))

    async def another_count(self, sent: web.Request) -> web.StreamResponse:
        return await self.stream(sent, chunk(1, "stop", prompt=PROMPT + 1), b"data: [DONE]\n\n")

    async def hangs(self, sent: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(sent)
            await response.write(ROLE)
            await self.go.wait()
            for piece in WHOLE[1:]:
                await response.write(piece)
        finally:
            self.left.set()
        return response

    def refuses(self, status: int) -> Answer:
        async def refuse(sent: web.Request) -> web.StreamResponse:
            return web.json_response({"error": {"message": "no", "code": "x"}}, status=status)

        return refuse


class Gateway:
    """The gateway's application with a customer of its own."""

    def __init__(self, key: str, user: Any) -> None:
        self.key, self.user = key, user

    async def ask(self, **body: Any) -> httpx.Response:
        transport = httpx.ASGITransport(with_gateway(None))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.post(
                "/v1/chat/completions",
                headers={"Authorization": f"Bearer {self.key}"},
                json={
                    "model": MODEL,
                    "messages": [{"role": "user", "content": "Hi"}],
                    "max_tokens": 5,
                    **body,
                },
                timeout=60,
            )

    async def record(self, **fields: Any) -> UsageRecord:
        """The newest record, once it is settled."""
        async with asyncio.timeout(15):
            while True:
                found: UsageRecord | None = await in_database(
                    lambda: UsageRecord.objects.filter(settled_at__isnull=False, **fields).first()
                )
                if found is not None:
                    return found
                await asyncio.sleep(0.02)


@pytest.fixture
def connections_closed(transactional_db: None) -> Iterator[None]:
    yield
    close_connections()


@pytest.fixture
def customer(connections_closed: None) -> Gateway:
    world = World()
    world.grant(world.ann, GRANTED)
    publish_price(model=MODEL, effective_at=timezone.now(), actor=world.maintainer, **PRICES)
    _, raw = create_api_key(user=world.ann, name="test", scopes=["inference"])
    return Gateway(raw, world.ann)


@pytest_asyncio.fixture
async def nodes(settings: Any) -> AsyncIterator[tuple[StandIn, StandIn]]:
    """Two static nodes. The first is preferred, because the second seems to be used longer."""
    pair = (StandIn(), StandIn())
    for node in pair:
        await node.start()
    settings.MODEL_NODES = [node.url for node in pair]
    yield pair
    for node in pair:
        node.frozen = False
        node.go.set()
    pool, sharing = pool_and_sharing()
    await sharing.aclose()
    await pool.aclose()
    for node in pair:
        await node.server.close()


async def first_choice(nodes: tuple[StandIn, StandIn]) -> StandIn:
    """Make sure that the first node is asked first: the second one has no free slot at the moment of the choice."""
    pool, sharing = pool_and_sharing()
    await sharing.fresh()
    await pool.models()
    sharing.view.candidates = first_is_preferred(nodes[0].url, sharing.view.candidates)  # type: ignore[method-assign]
    return nodes[0]


def first_is_preferred(url: str, choose: Callable[..., Any]) -> Callable[..., Any]:
    def chosen(*arguments: Any, **more: Any) -> Any:
        return tuple(sorted(choose(*arguments, **more), key=lambda candidate: candidate.node != url))

    return chosen


def texts(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def balance_of(user: Any) -> int:
    return ledger.balance(user).available


@pytest.mark.parametrize(
    "wrong", ["refuses 503", "refuses 500", "refuses 429", "breaks_before", "another_count"]
)
async def test_a_node_that_fails_before_the_first_token_is_left_for_another(
    customer: Gateway, nodes: tuple[StandIn, StandIn], wrong: str
) -> None:
    first = await first_choice(nodes)
    word, _, status = wrong.partition(" ")
    first.answer = first.refuses(int(status)) if status else getattr(first, word)
    answer = await customer.ask(stream=True)
    assert answer.status_code == 200, answer.text
    chunks = texts(answer)
    assert [c["choices"][0]["delta"].get("role") for c in chunks] == ["assistant", None, None]
    assert answer.text.endswith("data: [DONE]\n\n")
    record = await customer.record()
    assert (record.status, record.node, record.completion_tokens) == ("completed", nodes[1].url, 2)
    assert record.charged_microcredits == PROMPT + 2 * 4
    assert await in_database(balance_of, customer.user) == GRANTED - record.charged_microcredits
    assert (first.n_asked, nodes[1].n_asked) == (1, 1)
    assert not await in_database(Seat.objects.exists)


async def test_a_node_that_breaks_after_the_first_token_ends_the_answer_and_nothing_runs_twice(
    customer: Gateway, nodes: tuple[StandIn, StandIn]
) -> None:
    first = await first_choice(nodes)
    first.answer = first.breaks_after
    answer = await customer.ask(stream=True)
    error = texts(answer)[-1]["error"]
    assert error["code"] == "node_failed"
    assert "only the 1 tokens you received" in error["message"]
    record = await customer.record()
    assert (record.status, record.error_code, record.node) == ("failed", "node_failed", first.url)
    assert record.charged_microcredits == PROMPT + 4
    assert nodes[1].n_asked == 0
    _, sharing = pool_and_sharing()
    await sharing.fresh(0)
    assert await in_database(lambda: NodeWindow.objects.get(node=first.url).failures) == 1


async def test_a_whole_answer_moves_as_well(customer: Gateway, nodes: tuple[StandIn, StandIn]) -> None:
    first = await first_choice(nodes)
    first.answer = first.breaks_before
    answer = await customer.ask()
    assert answer.json()["choices"][0]["message"]["content"] == "xx"
    assert (await customer.record()).node == nodes[1].url


async def test_a_frozen_node_is_out_within_seconds_and_its_answer_is_closed_first(
    customer: Gateway, nodes: tuple[StandIn, StandIn]
) -> None:
    first = await first_choice(nodes)
    first.answer = first.hangs
    asking = asyncio.create_task(customer.ask(stream=True))
    while not first.n_asked:
        await asyncio.sleep(0.01)
    first.frozen = True
    began = time.monotonic()
    answer = await asking
    assert time.monotonic() - began < OUT_S
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
    assert first.left.is_set() or not first.n_running
    assert (await customer.record()).node == nodes[1].url
    # It gets nothing while it is silent, and its share again as soon as it answers.
    first.answer = first.whole
    for _ in range(3):
        assert (await customer.ask()).status_code == 200
    assert first.n_asked == 1
    first.frozen = False
    async with asyncio.timeout(OUT_S):
        while first.n_asked == 1:
            assert (await customer.ask()).status_code == 200
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("wrong", ["refuses", "breaks"])
@pytest.mark.parametrize("stream", [False, True])
async def test_where_all_nodes_fail_the_request_fails_once_and_costs_nothing(
    customer: Gateway, nodes: tuple[StandIn, StandIn], wrong: str, stream: bool
) -> None:
    first = await first_choice(nodes)
    first.answer = first.refuses(500) if wrong == "refuses" else first.breaks_before
    nodes[1].answer = nodes[1].refuses(500)
    answer = await customer.ask(stream=stream)
    if stream and wrong == "breaks":  # the headers were sent with the first node's
        (told,) = texts(answer)
        assert told["error"]["code"] == "node_failed"
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "node_failed")
    record = await customer.record()
    assert (record.status, record.error_code, record.charged_microcredits) == ("failed", "node_failed", 0)
    assert [node.n_asked for node in nodes] == [1, 1]
    assert await in_database(balance_of, customer.user) == GRANTED
    assert not await in_database(Seat.objects.exists)


async def test_a_node_whose_answers_break_gets_less_until_one_is_whole(
    customer: Gateway, nodes: tuple[StandIn, StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "DISTRUST_S", 25.0)
    first = await first_choice(nodes)
    first.answer = first.breaks_before
    for _ in range(4):
        assert (await customer.ask()).status_code == 200
    assert first.n_asked == 1
    pool, _ = pool_and_sharing()
    broken = pool.node(first.url)
    assert broken is not None and not broken.is_trusted
    for _ in range(5):
        pool.distrust(broken)
    assert 25 < broken.distrusted_until - time.monotonic() <= 30
    first.answer, nodes[1].answer = first.whole, nodes[1].refuses(500)
    assert (await customer.ask()).status_code == 200  # there is no other
    assert broken.is_trusted


async def test_requests_beyond_the_slots_wait_in_front_and_all_are_answered(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.NODE_SLOTS = 2
    for node in nodes:
        node.answer = node.slow
    answers = await asyncio.gather(*(customer.ask(stream=bool(i % 2)) for i in range(14)))
    assert [answer.status_code for answer in answers] == [200] * 14
    assert [node.most_running for node in nodes] == [2, 2]
    assert not await in_database(Seat.objects.exists)


async def test_a_full_account_and_a_full_queue_are_refused_in_words(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.NODE_SLOTS, settings.ACCOUNT_REQUESTS = 1, 3
    for node in nodes:
        node.answer = node.slow
    answers = await asyncio.gather(*(customer.ask() for _ in range(6)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 3
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_requests")
        assert answer.headers["retry-after"] == "1" and answer.headers["x-should-retry"] == "true"
    settings.ACCOUNT_REQUESTS, settings.QUEUE_REQUESTS = 100, 1
    answers = await asyncio.gather(*(customer.ask() for _ in range(5)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 2
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "5"
    assert await in_database(balance_of, customer.user) == GRANTED - 6 * (PROMPT + 8)


async def test_a_client_that_asks_one_after_the_other_is_never_over_its_limit(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.ACCOUNT_REQUESTS = 1
    for i in range(6):
        assert (await customer.ask(stream=bool(i % 2))).status_code == 200


async def test_the_longest_wait_and_the_deadline_end_a_wait_at_no_charge(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.NODE_SLOTS, settings.QUEUE_S = 1, 1
    for node in nodes:
        node.answer = node.hangs
    stuck = [asyncio.create_task(customer.ask()) for _ in range(2)]
    while sum(node.n_asked for node in nodes) < 2:
        await asyncio.sleep(0.01)
    late = await customer.ask(gainshare={"deadline_ms": 300})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    long = await customer.ask()
    assert (long.status_code, long.json()["error"]["code"]) == (503, "overloaded")
    for node in nodes:
        node.go.set()
    assert [answer.status_code for answer in await asyncio.gather(*stuck)] == [200, 200]
    for code in ("deadline_exceeded", "overloaded"):
        assert (await customer.record(error_code=code)).charged_microcredits == 0
    assert not await in_database(Seat.objects.exists)


async def test_the_nodes_deadline_is_what_is_left_of_it(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.NODE_SLOTS = 1
    for node in nodes:
        node.answer = node.slow
    busy = [asyncio.create_task(customer.ask()) for _ in range(2)]
    await asyncio.sleep(0.3)
    assert (await customer.ask(gainshare={"deadline_ms": 20_000, "priority": -3})).status_code == 200
    await asyncio.gather(*busy)
    (sent,) = [body["gainshare"] for node in nodes for body in node.bodies if "gainshare" in body]
    assert sent["priority"] == -3
    assert 10_000 < sent["deadline_ms"] < 20_000 - 100


async def test_a_request_for_a_model_whose_node_starts_waits_for_it(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MODEL_NODES = []
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)

    def serve_with_nothing() -> Any:
        ServedModel.objects.create(name=MODEL, slots=4)
        return make_host(make_class("spot", price=9))

    host = await in_database(serve_with_nothing)
    asking = asyncio.create_task(customer.ask(stream=True))
    async with asyncio.timeout(10):
        while not (load := await in_database(load_of, MODEL, timezone.now())).waiting:
            await asyncio.sleep(0.02)
    assert load.running == 0
    assert not await in_database(UsageRecord.objects.exists)  # nothing is held for what nobody counted
    fields = {"device": 0, "model": MODEL, "state": "ready", "reason": "test", "url": nodes[0].url}
    node = await in_database(lambda: host.nodes.create(**fields))
    answer = await asking
    assert answer.text.startswith(waiting.COMMENT.decode())
    assert answer.text.endswith("data: [DONE]\n\n")
    record = await customer.record()
    assert (record.node, record.device_class, record.charged_microcredits) == (
        str(node.pk),
        "spot",
        PROMPT + 8,
    )
    assert answer.headers["x-gainshare-request-id"] == str(record.pk)
    assert not await in_database(Seat.objects.exists)


async def test_kept_and_broken_promises_are_counted_and_told_to_scaling(
    customer: Gateway, nodes: tuple[StandIn, StandIn]
) -> None:
    """What `forecast` learns its margin from: the share of late requests, also of those that streams broke."""
    promises = ServedModel.objects.filter(name=MODEL)

    async def share() -> float | None:
        return (await in_database(load_of, MODEL, timezone.now())).late_share

    async def asked_until(is_wanted: Callable[[float | None], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_wanted(await share()):
                assert (await customer.ask()).status_code == 200
                await asyncio.sleep(0.1)

    await in_database(
        lambda: ServedModel.objects.create(
            name=MODEL, slots=4, first_token_p99_ms=60_000, token_p99_ms=60_000
        )
    )
    assert await share() is None
    await asked_until(lambda found: found == 0.0)
    await in_database(lambda: promises.update(first_token_p99_ms=0))
    await asked_until(lambda found: found is not None and found > 0.0)
    before = await share()
    assert before is not None and before < 1.0
    await in_database(lambda: promises.update(first_token_p99_ms=60_000, token_p99_ms=0))
    await asyncio.sleep(1.0)  # every process has read the view again
    nodes[0].answer = nodes[0].slow
    nodes[1].answer = nodes[1].slow
    await asked_until(lambda found: found is not None and found > before)


async def test_a_wait_without_credits_starts_no_node(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.MODEL_NODES = []

    def poor() -> str:
        ServedModel.objects.create(name=MODEL, slots=4)
        _, raw = create_api_key(user=World().bob, name="test", scopes=["inference"])
        return raw

    customer.key = await in_database(poor)
    answer = await customer.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert not await in_database(Seat.objects.exists)


async def test_a_draining_node_gets_nothing_new_and_finishes(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.MODEL_NODES = [nodes[1].url]

    def ready() -> Any:
        fields = {"device": 0, "model": MODEL, "state": "ready", "reason": "test", "url": nodes[0].url}
        return make_host(make_class()).nodes.create(**fields)

    node = await in_database(ready)
    nodes[0].answer, nodes[1].answer = nodes[0].slow, nodes[1].refuses(500)
    begun = asyncio.create_task(customer.ask())
    while not nodes[0].n_asked:
        await asyncio.sleep(0.01)
    await in_database(lambda: type(node).objects.filter(pk=node.pk).update(state="draining"))
    nodes[1].answer = nodes[1].whole
    await asyncio.sleep(1.0)  # every process has read the view again
    for _ in range(4):
        assert (await customer.ask()).status_code == 200
    assert (await begun).status_code == 200
    assert nodes[0].n_asked == 1


async def test_a_beginning_that_a_node_has_computed_brings_the_next_request_to_it(
    customer: Gateway, nodes: tuple[StandIn, StandIn]
) -> None:
    """Nothing else tells the nodes apart."""
    text = "The sea is wide and the ship is small. " * 100
    for node in nodes:
        node.n_prompt = 1000
    for i in range(6):
        messages = [{"role": "user", "content": text}, *[{"role": "user", "content": "on"}] * i]
        assert (await customer.ask(messages=messages, max_tokens=5)).status_code == 200
    assert sorted(node.n_asked for node in nodes) == [0, 6]
    _, sharing = pool_and_sharing()
    await sharing.fresh(0)
    assert await in_database(CachedBlock.objects.count) > 3
    asked = max(nodes, key=lambda node: node.n_asked)
    assert await in_database(lambda: set(CachedBlock.objects.values_list("node", flat=True))) == {asked.url}


async def test_seats_are_kept_through_a_silence(customer: Gateway, nodes: tuple[StandIn, StandIn]) -> None:
    for node in nodes:
        node.answer = node.hangs
    asking = asyncio.create_task(customer.ask())
    _, sharing = pool_and_sharing()
    async with asyncio.timeout(10):
        while not await in_database(Seat.objects.exists):
            await asyncio.sleep(0.02)
    async with asyncio.timeout(10):
        while await in_database(Seat.objects.exists):
            await in_database(seats.free_lost, silent_since=timezone.now().replace(year=2100))
    sharing._spoke_at -= seats.LEASE_S  # as after a stop of the process
    async with asyncio.timeout(10):
        while not await in_database(Seat.objects.exists):
            await asyncio.sleep(0.05)
    for node in nodes:
        node.go.set()
    assert (await asking).status_code == 200
    assert not await in_database(Seat.objects.exists)
