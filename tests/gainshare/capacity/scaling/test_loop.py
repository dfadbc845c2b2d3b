"""Passes of the control loop: what they order, drain and write down, and that repeating them changes nothing."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from gainshare.capacity.hosts.nodes import order
from gainshare.capacity.models import (
    Arrivals,
    Decision,
    Host,
    Node,
    NodeState,
    NodeWindow,
    ScalingState,
    Seat,
    ServedModel,
)
from gainshare.capacity.policies import registry
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Wanted
from gainshare.capacity.routing.load import step_of
from gainshare.capacity.routing.rates import WINDOW_S, window_of
from gainshare.capacity.scaling import loop, records
from gainshare.capacity.scaling.costs import day_start
from gainshare.capacity.scaling.locks import lock_pass
from tests.gainshare.capacity.pool_world import race
from tests.gainshare.capacity.scaling.scaling_world import (
    MODEL,
    arrive,
    end,
    live,
    make_class,
    make_host,
    make_ready,
    passes,
    serve,
    take_seats,
)

pytestmark = pytest.mark.django_db
Fleets = Mapping[str, Fleet]
Classes = Sequence[ClassFacts]


def latest() -> Decision:
    decision = Decision.objects.first()
    assert decision is not None
    return decision


def test_a_fixed_count_is_ordered_once_with_its_reason() -> None:
    served = serve(make_host(make_class(), devices=4).device_class, fixed_nodes=2)
    passes(served, 3)
    assert [node.state for node in live()] == [NodeState.STARTING] * 2
    assert {node.reason for node in live()} == {"a maintainer set 2 nodes"}
    (decision,) = Decision.objects.all()
    assert (decision.policy, decision.before, decision.wanted) == ("manual", {}, {"cpu-small": 2})
    assert [action["verb"] for action in decision.actions] == ["order", "order"]
    assert {action["node"] for action in decision.actions} == {str(node.pk) for node in live()}
    assert decision.inputs["fleets"] == {"cpu-small": {"ready": 0, "starting": 0, "leaving": 0}}
    assert decision.inputs["load"]["waiting"] == 0


def test_the_policy_is_asked_with_its_own_state_and_its_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def policy(
        _: float, load: Load, fleets: Fleets, classes: Classes, __: Objective, state: Mapping[str, Any]
    ) -> Wanted:
        asked.append((load.waiting, dict(fleets), [facts.name for facts in classes], dict(state)))
        return Wanted({"cpu-small": load.waiting}, f"{load.waiting} wait", {"calls": len(asked)})

    monkeypatch.setitem(registry.POLICIES, "forecast", policy)  # type: ignore[arg-type]
    served = serve(make_host(make_class(), devices=4).device_class, is_automatic=True)
    take_seats(None, 2)
    now = timezone.now()
    for later in (0, 5, 11):  # a tick of this policy has 10 s
        loop.scale(served.pk, now + timedelta(seconds=later))
    assert len(asked) == 2
    assert asked[0][0] == 2 and asked[0][2:] == (["cpu-small"], {})
    assert asked[1][1]["cpu-small"].starting == 2 and asked[1][3] == {"calls": 1}
    assert latest().reason == "2 wait" and len(live()) == 2
    ServedModel.objects.update(policy="kpa")
    monkeypatch.setitem(registry.POLICIES, "kpa", policy)
    passes(served)
    assert asked[2][3] == {}, "another policy gets no state of the first"
    assert latest().policy == "kpa"


def test_fewer_wanted_nodes_drain_the_idle_one() -> None:
    served = serve(make_host(make_class(), devices=2).device_class, fixed_nodes=2)
    passes(served)
    busy, idle = live()
    make_ready(busy, idle)
    take_seats(busy, 1)
    ServedModel.objects.update(fixed_nodes=1)
    passes(served, 2)
    assert [node.pk for node in live(NodeState.DRAINING)] == [idle.pk]
    assert [node.pk for node in live(NodeState.READY)] == [busy.pk]
    assert latest().actions == [{"verb": "drain", "device_class": "cpu-small", "node": str(idle.pk)}]


def test_a_node_whose_load_only_its_agent_knows_is_busy_too() -> None:
    served = serve(make_host(make_class(), devices=2).device_class, fixed_nodes=2)
    passes(served)
    first, second = live()
    make_ready(first, second)
    Node.objects.filter(pk=first.pk).update(load={"running": 1, "waiting": 3, "cache_use": 0.5})
    ServedModel.objects.update(fixed_nodes=1)
    passes(served)
    assert [node.pk for node in live(NodeState.DRAINING)] == [second.pk]


def test_a_lost_node_is_replaced_and_that_is_a_decision() -> None:
    served = serve(make_host(make_class(), devices=2).device_class)
    passes(served)
    (node,) = live()
    make_ready(node)
    passes(served)
    before = Decision.objects.count()
    end(node)
    passes(served, 2)
    (new,) = live()
    assert new.pk != node.pk and Decision.objects.count() == before + 1
    assert latest().actions == [{"verb": "order", "device_class": "cpu-small", "node": str(new.pk)}]


def test_a_hung_node_is_replaced_while_it_hangs_and_surplus_afterwards() -> None:
    served = serve(make_host(make_class(), devices=2).device_class)
    passes(served)
    (hung,) = live()
    make_ready(hung)
    Node.objects.filter(pk=hung.pk).update(hung_at=timezone.now())
    passes(served, 2)
    (new,) = [node for node in live() if node.pk != hung.pk]
    make_ready(new)
    Node.objects.filter(pk=hung.pk).update(hung_at=None)
    take_seats(hung, 1)
    passes(served)
    assert [node.pk for node in live(NodeState.DRAINING)] == [new.pk]


def test_a_start_that_fails_again_and_again_is_tried_more_and_more_rarely() -> None:
    served = serve(make_host(make_class(), devices=1).device_class)
    now = timezone.now()
    orders = 0
    for second in range(0, 120, 2):
        loop.scale(served.pk, now)
        for node in live():
            orders += 1
            end(node)
        Node.objects.update(ended_at=timezone.now() - timedelta(seconds=second % 3))
    assert orders < 10
    assert "ended before they were ready; next try at" in ScalingState.objects.get().problem


def test_a_node_that_the_loop_itself_drained_is_no_failed_start() -> None:
    served = serve(make_host(make_class(), devices=1).device_class)
    for _ in range(3):
        passes(served)
        ServedModel.objects.update(fixed_nodes=0)
        passes(served)
        assert live() == []
        ServedModel.objects.update(fixed_nodes=1)
    passes(served)
    assert len(live()) == 1


def test_what_has_no_device_is_said_once() -> None:
    device_class = make_class()
    make_host(device_class, devices=1)
    served = serve(device_class, fixed_nodes=3)
    passes(served, 3)
    assert len(live()) == 1 and Decision.objects.count() == 1
    assert latest().reason == "a maintainer set 3 nodes; the classes have no room for 2 of them"


def test_a_device_that_a_lost_node_may_still_hold_is_not_counted() -> None:
    host = make_host(make_class(), devices=2)
    served = serve(host.device_class, fixed_nodes=2)
    passes(served)
    lost = live()[0]
    end(lost)
    Node.objects.filter(pk=lost.pk).update(holds_device=True)
    passes(served, 2)
    assert len(live()) == 1 and "no room for 1" in latest().reason


def test_another_model_s_nodes_count_against_the_class() -> None:
    device_class = make_class(max_nodes=3)
    make_host(device_class, devices=8)
    served = serve(device_class, fixed_nodes=5)
    other = ServedModel.objects.create(name="other", fixed_nodes=1)
    other.classes.add(device_class)
    loop.scale(other.pk, timezone.now())
    passes(served)
    assert Node.objects.filter(model=MODEL).count() == 2


def test_a_silent_host_gets_no_order_and_keeps_what_it_has() -> None:
    device_class = make_class()
    host = make_host(device_class, devices=2)
    served = serve(device_class, fixed_nodes=1)
    passes(served)
    make_ready(*live())
    Host.objects.update(last_seen_at=timezone.now() - timedelta(minutes=5))
    ServedModel.objects.update(fixed_nodes=2)
    passes(served)
    assert [node.state for node in live()] == [NodeState.READY] and host.nodes.count() == 1


def test_a_notice_of_preemption_is_counted_and_the_host_gets_nothing_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def policy(
        _: float, __: Load, fleets: Fleets, ___: Classes, ____: Objective, _____: Mapping[str, Any]
    ) -> Wanted:
        fleet = fleets["cpu-small"]
        seen.append(fleet.leaving)
        return Wanted({"cpu-small": 1 + fleet.leaving}, f"{fleet.leaving} leaving")

    monkeypatch.setitem(registry.POLICIES, "forecast", policy)  # type: ignore[arg-type]
    device_class = make_class()
    leaving, other = make_host(device_class), make_host(device_class)
    served = serve(device_class, is_automatic=True)
    passes(served)
    (node,) = live()
    make_ready(node)
    ScalingState.objects.update(asked_at=None)
    gone = leaving if node.host_id == leaving.pk else other
    Host.objects.filter(pk=gone.pk).update(leaves_at=timezone.now() + timedelta(minutes=2))
    passes(served)
    assert seen[-1] == 1
    (new,) = live(NodeState.STARTING)
    assert new.host_id != gone.pk


def test_the_budget_stops_what_would_pass_it() -> None:
    device_class = make_class(price=3_600_000)  # 1,000 micro-credits a second
    make_host(device_class, devices=4)
    served = serve(device_class, fixed_nodes=2, budget_microcredits_per_day=100_000_000)
    passes(served)
    nodes = live()
    make_ready(*nodes)
    assert len(nodes) == 2
    # Both have cost 49,950 s by now: 100,000 micro-credits are left, 50 s of both.
    midnight = day_start(timezone.now()) + timedelta(days=1)  # after the first decision, whenever it was
    late = midnight + timedelta(hours=20)
    Node.objects.update(created_at=late - timedelta(seconds=49_950))
    Host.objects.update(last_seen_at=late)
    loop.scale(served.pk, late)
    assert live(NodeState.READY) == [] and latest().wanted == {"cpu-small": 0}
    assert "the day's budget has 100000 micro-credits left, without 2 cpu-small" in latest().reason
    loop.scale(served.pk, midnight + timedelta(days=1, minutes=10))
    assert "budget" not in latest().reason


@pytest.mark.parametrize("policy", ["fixed", "hpa"])
@pytest.mark.parametrize("left_s", [50, -10])
def test_a_lowered_price_keeps_no_node_beyond_the_budget(policy: str, left_s: int) -> None:
    """The nodes still cost what their class cost at their start."""
    device_class = make_class(price=3_600_000)  # 1,000 micro-credits a second
    make_host(device_class, devices=4)
    served = serve(
        device_class,
        fixed_nodes=2,
        is_automatic=policy == "hpa",
        policy=policy,
        budget_microcredits_per_day=100_000_000,
    )
    for _ in range(2):
        assert order(model=MODEL, device_class=device_class, reason="before") is not None
    make_ready(*live())
    take_seats(live()[0], 4)  # a policy wants to keep both
    take_seats(live()[1], 4)
    device_class.price_microcredits_per_device_hour = 0
    device_class.save()
    late = day_start(timezone.now()) + timedelta(days=1, hours=20)
    # The budget pays 50,000 s of both: it is nearly spent, or passed.
    Node.objects.update(created_at=late - timedelta(seconds=50_000 - left_s))
    Host.objects.update(last_seen_at=late)
    loop.scale(served.pk, late)
    assert live(NodeState.READY) == [] and latest().wanted == {"cpu-small": 0}


def test_a_node_that_drains_is_paid_before_another_one_starts() -> None:
    device_class = make_class(price=3_600_000)
    make_host(device_class, devices=4)
    served = serve(device_class, fixed_nodes=1, budget_microcredits_per_day=50_000_000)
    assert order(model=MODEL, device_class=device_class, reason="before") is not None
    (node,) = live()
    late = day_start(timezone.now()) + timedelta(days=1, hours=20)
    # 700 s are left: enough for the start of a second one, and not while the first one may still cost 140 s.
    Node.objects.update(state=NodeState.DRAINING, created_at=late - timedelta(seconds=49_300))
    Host.objects.update(last_seen_at=late)
    loop.scale(served.pk, late)
    assert live() == [node] and "560000 micro-credits left, without 1 cpu-small" in latest().reason
    Node.objects.update(state=NodeState.ENDED, ended_at=late)
    loop.scale(served.pk, late)
    assert len(live(NodeState.STARTING)) == 1


@pytest.mark.parametrize(("left_s", "stays"), [(500, True), (60, False)])
def test_a_node_waits_for_its_successor_only_while_the_budget_pays_both(left_s: int, stays: bool) -> None:
    dear, cheap = make_class(name="dear", price=36_000_000), make_class(name="cheap", price=3600)
    make_host(dear, devices=1)
    make_host(cheap, devices=1)
    served = serve(dear, fixed_nodes=1, budget_microcredits_per_day=500_000_000)
    assert order(model=MODEL, device_class=dear, reason="before") is not None
    make_ready(*live())
    served.classes.set([cheap])  # a maintainer's change: the dear one is to be replaced
    late = day_start(timezone.now()) + timedelta(days=1, hours=20)
    Node.objects.update(created_at=late - timedelta(seconds=50_000 - left_s))
    Host.objects.update(last_seen_at=late)
    loop.scale(served.pk, late)
    assert [node.host.device_class.name for node in live(NodeState.STARTING)] == ["cheap"]
    assert [node.host.device_class.name for node in live(NodeState.READY)] == (["dear"] if stays else [])


def test_measured_cold_starts_replace_the_stated_one() -> None:
    device_class = make_class(cold_start_s=300)
    make_host(device_class, devices=4)
    served = serve(device_class, fixed_nodes=3)
    passes(served)
    assert latest().inputs["classes"][0]["cold_start_s"] == 300
    now = timezone.now()
    for node, seconds in zip(live(), (10, 20, 90), strict=True):
        Node.objects.filter(pk=node.pk).update(created_at=now - timedelta(seconds=seconds))
        make_ready(node)
    ServedModel.objects.update(fixed_nodes=2)
    passes(served)
    assert latest().inputs["classes"][0]["cold_start_s"] == pytest.approx(20, abs=2)


def test_an_unchanged_decision_is_recorded_every_minute_and_forgotten_after_two_weeks() -> None:
    served = serve(make_host(make_class()).device_class)
    now = timezone.now()
    for second in range(0, 150, 10):
        Host.objects.update(last_seen_at=now + timedelta(seconds=second))
        loop.scale(served.pk, now + timedelta(seconds=second))
    assert [decision.is_change for decision in Decision.objects.order_by("pk")] == [True, False, False]
    assert records.forget_repeats(now + timedelta(days=13)) == 0
    assert records.forget_repeats(now + timedelta(days=15)) == 2
    assert Decision.objects.get().is_change


def test_a_waiting_request_without_a_node_is_answered_at_once() -> None:
    served = serve(make_host(make_class(), devices=2).device_class, is_automatic=True)
    now = timezone.now()
    loop.scale(served.pk, now)
    assert live() == [] and latest().wanted == {"cpu-small": 0}
    take_seats(None, 1)
    loop.scale(served.pk, now + timedelta(seconds=2))
    (node,) = live()
    assert node.reason == "+1 cpu-small: 1 requests at once, rates are not measured yet"


def answered(device_class: str, requests: int, *, now: datetime) -> None:
    """So many requests in the latest window of a full node of the class, as the gateway counts them."""
    NodeWindow.objects.create(
        node=f"{device_class}-node", model=MODEL, device_class=device_class, window_at=window_of(now),
        requests=requests, busy_ms=4 * WINDOW_S * 1000,
    )  # fmt: skip


def test_a_class_that_was_never_measured_replaces_a_dearer_one() -> None:
    """All requests go to the dear node, so the cheap one is never measured: it must not wait for that for ever."""
    dear, cheap = make_class("dear", price=4_000_000), make_class("cheap", price=1_000_000)
    make_host(dear, devices=1)
    make_host(cheap, devices=1)
    served = serve(dear, cheap, is_automatic=True)
    now = timezone.now()
    assert order(model=MODEL, device_class=dear, reason="first") is not None
    make_ready(*live())
    answered("dear", 60, now=now)
    arrive(3, now=now, steps=59)
    for second in range(0, 900, 10):
        at = now + timedelta(seconds=second)
        Host.objects.update(last_seen_at=timezone.now() if second < 5 else at)
        Arrivals.objects.get_or_create(model=MODEL, step_at=step_of(at), defaults={"requests": 3})
        loop.scale(served.pk, at)
        make_ready(*live(NodeState.STARTING))
    assert [node.host.device_class.name for node in live(NodeState.READY)] == ["cheap"]
    rates = {facts["name"]: facts["requests_per_s"] for facts in latest().inputs["classes"]}
    assert rates["cheap"] == rates["dear"] > 0


@pytest.mark.parametrize("policy", ["kpa", "hpa", "ray", "forecast"])
def test_each_policy_starts_a_node_for_waiting_requests_and_ends_it_without_any(policy: str) -> None:
    served = serve(make_host(make_class(), devices=2).device_class, is_automatic=True, policy=policy)
    now = timezone.now()
    take_seats(None, 3)
    loop.scale(served.pk, now)
    assert live()
    assert latest().policy == policy and re.match(r"\+[12] cpu-small: ", latest().reason)
    make_ready(*live())
    Seat.objects.all().delete()
    for minute in range(40):
        Host.objects.update(last_seen_at=now + timedelta(minutes=minute))
        loop.scale(served.pk, now + timedelta(minutes=minute))
    assert live(NodeState.READY) == []
    assert ScalingState.objects.get().wanted == {"cpu-small": 0}


def test_a_policy_that_fails_is_said_and_stops_no_other_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def policy(*_: object) -> Wanted:
        raise ZeroDivisionError("no rate")

    monkeypatch.setitem(registry.POLICIES, "kpa", policy)
    device_class = make_host(make_class(), devices=2).device_class
    broken = serve(device_class, is_automatic=True, policy="kpa")
    other = ServedModel.objects.create(name="other")
    other.classes.add(device_class)
    assert loop.scale_all(timezone.now()) == 1
    assert ScalingState.objects.get(served=broken).failure == "ZeroDivisionError: no rate"
    assert Node.objects.get().model == "other"
    ServedModel.objects.update(is_automatic=False)
    assert loop.scale_all(timezone.now()) == 2
    assert ScalingState.objects.get(served=broken).failure == ""


@pytest.mark.django_db(transaction=True)
def test_passes_of_several_workers_order_once() -> None:
    served = serve(make_host(make_class(), devices=8).device_class, fixed_nodes=3)
    for _ in range(3):
        race(*[lambda: loop.scale(served.pk, timezone.now())] * 4)
    assert len(live()) == 3 and Decision.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_pass_waits_for_nobody() -> None:
    served = serve(make_host(make_class(), devices=8).device_class)
    with transaction.atomic():
        assert lock_pass(served.pk)
        (result,) = race(lambda: loop.scale(served.pk, timezone.now()))
        assert result is None and live() == []
    assert connection.in_atomic_block is False
    assert loop.scale(served.pk, timezone.now()) is not None
