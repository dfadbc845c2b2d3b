"""Requests that wait in front of the nodes: limits, deadlines, a model whose node starts, kept and broken promises."""

import asyncio
from dataclasses import asdict
from typing import Any

import pytest
from django.db.models import Sum
from django.utils import timezone

from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Arrivals, Host, Node, Seat, ServedModel
from gainshare.capacity.routing.load import load_of
from gainshare.gateway import waiting
from gainshare.gateway.database import in_database
from gainshare.gateway.models import UsageRecord
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import active_price, publish_price, table_of
from tests.gainshare.capacity.pool_world import make_class, make_host
from tests.gainshare.gateway.nodes.misbehaving import (
    GRANTED,
    MODEL,
    PROMPT,
    Gateway,
    StandIn,
    balance_of,
)
from tests.gainshare.ledger.ledger_world import World

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def served_by_no_node() -> Host:
    """The pool serves the model, and has no node of it; a host that may start one."""
    ServedModel.objects.create(name=MODEL, slots=4)
    return make_host(make_class("spot", price=9))


def node_of(host: Host, url: str) -> Node:
    return host.nodes.create(device=0, model=MODEL, state="ready", reason="test", url=url)


async def one_waits() -> None:
    """Wait until scaling sees a request that waits."""
    async with asyncio.timeout(10):
        while not (await in_database(load_of, MODEL, timezone.now())).waiting:
            await asyncio.sleep(0.02)


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
    host = await in_database(served_by_no_node)
    asking = asyncio.create_task(customer.ask(stream=True))
    await one_waits()
    assert (await in_database(load_of, MODEL, timezone.now())).running == 0
    assert not await in_database(UsageRecord.objects.exists)  # nothing is held for what nobody counted
    node = await in_database(node_of, host, nodes[0].url)
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


async def test_a_wait_without_a_node_counts_against_the_deadline_and_keeps_the_priority(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.MODEL_NODES = []
    host = await in_database(served_by_no_node)
    late = await customer.ask(gainshare={"deadline_ms": 300})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    asking = asyncio.create_task(customer.ask(gainshare={"deadline_ms": 20_000, "priority": -3}))
    async with asyncio.timeout(10):
        while not await in_database(Seat.objects.filter(priority=-3).exists):
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    await in_database(node_of, host, nodes[0].url)
    assert (await asking).status_code == 200
    (sent,) = [body["gainshare"] for body in nodes[0].bodies if "gainshare" in body]
    assert sent["priority"] == -3
    assert 10_000 < sent["deadline_ms"] < 20_000 - 500
    assert not await in_database(Seat.objects.exists)


async def test_a_request_that_waited_for_a_node_pays_the_price_of_its_admission(
    customer: Gateway, nodes: tuple[StandIn, StandIn], settings: Any
) -> None:
    settings.MODEL_NODES = []
    host = await in_database(served_by_no_node)
    asking = asyncio.create_task(customer.ask())
    await one_waits()

    def fall() -> PriceVersion:
        before = active_price(MODEL, timezone.now())
        terms = {**asdict(table_of(before)), "output": 0}
        return publish_price(model=MODEL, actor=World().maintainer, **terms)

    lower = await in_database(fall)
    await in_database(node_of, host, nodes[0].url)
    assert (await asking).status_code == 200
    record = await customer.record()
    assert (record.price_id, record.charged_microcredits) == (lower.pk, PROMPT)


async def test_kept_and_broken_promises_are_counted_and_told_to_scaling(
    customer: Gateway, nodes: tuple[StandIn, StandIn]
) -> None:
    """What `forecast` learns its margin from: the share of late requests, also of those that streams broke."""
    promises = ServedModel.objects.filter(name=MODEL)

    async def share() -> float | None:
        return (await in_database(load_of, MODEL, timezone.now())).late_share

    async def counted() -> dict[str, int]:
        sums = Arrivals.objects.filter(model=MODEL).aggregate
        return await in_database(lambda: sums(ended=Sum("ended"), late=Sum("late"), slow=Sum("slow")))

    async def asked_until(counts: str) -> None:
        before = (await counted())[counts] or 0
        async with asyncio.timeout(20):
            while ((await counted())[counts] or 0) <= before:
                assert (await customer.ask()).status_code == 200
                await asyncio.sleep(0.1)

    await in_database(
        lambda: ServedModel.objects.create(
            name=MODEL, slots=4, first_token_p99_ms=60_000, token_p99_ms=60_000
        )
    )
    assert await share() is None
    await asked_until("ended")
    assert await share() == 0.0
    await in_database(lambda: promises.update(first_token_p99_ms=0))
    await asked_until("late")
    found = await counted()
    assert found["slow"] == 0 and await share() == pytest.approx(found["late"] / found["ended"])
    await in_database(lambda: promises.update(first_token_p99_ms=60_000, token_p99_ms=0))
    nodes[0].answer = nodes[0].slow
    nodes[1].answer = nodes[1].slow
    await asked_until("slow")


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
