"""Orders, drains and lost hosts: one node a device, each change once."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from gainshare.capacity.hosts import nodes
from gainshare.capacity.hosts.nodes import drain, lose_silent_hosts, order, ready_nodes
from gainshare.capacity.models import DeviceClass, Host, Node, NodeState
from tests.gainshare.capacity.pool_world import MODEL, again, make_class, make_host, race

pytestmark = pytest.mark.django_db

LONG_AGO = timedelta(hours=1)


def ordered(device_class: DeviceClass) -> Node:
    node = order(model=MODEL, device_class=device_class, reason="a test")
    assert node is not None
    return node


def test_an_order_takes_a_free_device_at_the_price_of_its_class() -> None:
    host = make_host(make_class(price=5), devices=2)
    first = order(model=MODEL, device_class=host.device_class, reason="+1", tree="ab" * 32)
    assert first is not None
    assert (first.host, first.device, first.state) == (host, 0, NodeState.STARTING)
    assert (first.reason, first.tree, first.price_microcredits_per_device_hour) == ("+1", "ab" * 32, 5)
    assert ordered(host.device_class).device == 1
    assert order(model=MODEL, device_class=host.device_class, reason="+1") is None


def test_the_emptiest_host_gets_the_next_node() -> None:
    device_class = make_class()
    hosts = {make_host(device_class, devices=2).pk for _ in range(2)}
    assert {ordered(device_class).host_id for _ in range(2)} == hosts


@pytest.mark.parametrize(
    "unusable",
    [
        {"last_seen_at": None},
        {"last_seen_at": timezone.now() - LONG_AGO},
        {"leaves_at": timezone.now() + LONG_AGO},
        {"revoked_at": timezone.now()},
        {"n_devices": 0},
    ],
    ids=lambda unusable: next(iter(unusable)),
)
def test_a_host_that_is_silent_leaving_or_revoked_gets_nothing(unusable: dict[str, Any]) -> None:
    host = make_host(make_class(), **unusable)
    assert order(model=MODEL, device_class=host.device_class, reason="a test") is None


def test_another_class_and_a_lent_device_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host(make_class(), devices=2)
    assert order(model=MODEL, device_class=make_class("h100"), reason="a test") is None
    monkeypatch.setattr(nodes, "is_lent", lambda host_id, device: (host_id, device) == (host.id, 0))
    assert ordered(host.device_class).device == 1


def test_a_node_that_no_agent_has_heard_of_ends_at_once() -> None:
    device_class = make_host(make_class()).device_class
    node = ordered(device_class)
    assert drain(node_id=node.pk, reason="not needed")
    gone = again(node)
    assert (gone.state, gone.end_reason, gone.holds_device) == (NodeState.ENDED, "not needed", False)
    assert ordered(device_class).device == node.device


@pytest.mark.parametrize("state", [NodeState.STARTING, NodeState.READY])
def test_a_node_that_its_agent_knows_drains_once(state: NodeState) -> None:
    node = ordered(make_host(make_class()).device_class)
    Node.objects.filter(pk=node.pk).update(state=state, told_at=timezone.now())
    assert drain(node_id=node.pk, reason="the trough")
    assert not drain(node_id=node.pk, reason="again")
    gone = again(node)
    assert (gone.state, gone.end_reason) == (NodeState.DRAINING, "the trough")
    assert gone.draining_at is not None


def test_an_ended_or_unknown_node_does_not_drain() -> None:
    node = ordered(make_host(make_class()).device_class)
    Node.objects.filter(pk=node.pk).update(state=NodeState.ENDED, ended_at=timezone.now())
    assert not drain(node_id=node.pk, reason="again")
    assert not drain(node_id=uuid4(), reason="again")


def test_a_silent_host_loses_its_nodes_but_keeps_their_devices_taken() -> None:
    heard, silent = make_host(make_class()), make_host(DeviceClass.objects.get())
    kept, lost = ordered(heard.device_class), ordered(heard.device_class)
    Host.objects.filter(pk=lost.host_id).update(last_seen_at=timezone.now() - LONG_AGO)
    assert lose_silent_hosts(timezone.now()) == 0  # it was ordered a moment ago, and no agent was told
    Node.objects.filter(pk=lost.pk).update(told_at=timezone.now())
    assert lose_silent_hosts(timezone.now()) == 1
    assert lose_silent_hosts(timezone.now()) == 0
    assert again(kept).state == NodeState.STARTING
    gone = again(lost)
    assert (gone.state, gone.holds_device) == (NodeState.ENDED, True)
    assert "silent" in gone.end_reason
    Host.objects.filter(pk__in=[heard.pk, silent.pk]).update(last_seen_at=timezone.now())
    assert order(model=MODEL, device_class=heard.device_class, reason="it is back") is None


def test_the_database_itself_keeps_a_second_node_off_a_device() -> None:
    node = ordered(make_host(make_class()).device_class)
    for state in ({}, {"state": NodeState.ENDED, "ended_at": timezone.now(), "holds_device": True}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Node.objects.create(host=node.host, device=node.device, model=MODEL, reason="beside", **state)


def test_only_ready_nodes_that_answer_are_served_from() -> None:
    device_class = make_host(make_class(), devices=3).device_class
    good, hung, _ = (ordered(device_class) for _ in range(3))
    Node.objects.filter(pk__in=[good.pk, hung.pk]).update(state=NodeState.READY)
    Node.objects.filter(pk=hung.pk).update(hung_at=timezone.now())
    assert ready_nodes(MODEL) == [good]


@pytest.mark.django_db(transaction=True)
def test_orders_at_the_same_moment_never_share_a_device() -> None:
    device_class = make_host(make_class(), devices=3).device_class
    make_host(device_class, devices=2)
    results = race(*[lambda: order(model=MODEL, device_class=device_class, reason="race")] * 8)
    placed = [(node.host_id, node.device) for node in results if node is not None]
    assert len(placed) == len(set(placed)) == 5


@pytest.mark.django_db(transaction=True)
def test_drains_at_the_same_moment_change_a_node_once() -> None:
    node = ordered(make_host(make_class()).device_class)
    Node.objects.filter(pk=node.pk).update(told_at=timezone.now())
    results = race(*[lambda: drain(node_id=node.pk, reason="race")] * 6)
    assert sorted(results) == [False] * 5 + [True]
