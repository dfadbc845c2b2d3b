"""A request and the nodes that answer it: it moves before its first token only. Real PostgreSQL and gateway."""

import asyncio
import time
from typing import Any

import pytest
from django.utils import timezone

from gainshare.capacity.models import CachedBlock, NodeWindow, Seat
from gainshare.capacity.routing import seats
from gainshare.gateway.database import in_database
from gainshare.gateway.nodes import pool as pool_module
from gainshare.gateway.nodes.sharing import pool_and_sharing
from tests.gainshare.capacity.pool_world import make_class, make_host
from tests.gainshare.gateway.nodes.misbehaving import (
    GRANTED,
    MODEL,
    OUT_S,
    PROMPT,
    Gateway,
    StandIn,
    balance_of,
    first_choice,
    texts,
)

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


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
