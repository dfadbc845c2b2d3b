"""What nodes cost, to the micro-credit."""

from datetime import UTC, date, datetime, timedelta

import pytest
from django.utils import timezone

from gainshare.capacity.models import Node
from gainshare.capacity.scaling.budget import STOP_S
from gainshare.capacity.scaling.costs import (
    NodeTime,
    cost_by_day,
    cost_of,
    day_start,
    ending_cost,
    node_times,
    spent_today,
)
from tests.gainshare.capacity.scaling.scaling_world import MODEL, live, make_class, make_host, passes, serve

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def held(since: datetime, until: datetime | None, price: int = 3600) -> NodeTime:
    return NodeTime("tiny", "cpu-small", price, since, until)


def test_an_hour_costs_the_price_and_a_second_its_part() -> None:
    one = held(NOON, NOON + HOUR)
    assert cost_of(one, start=NOON - HOUR, end=NOON + 2 * HOUR) == 3600
    assert cost_of(one, start=NOON, end=NOON + timedelta(seconds=1)) == 1
    assert cost_of(one, start=NOON, end=NOON + timedelta(milliseconds=999)) == 0
    assert cost_of(one, start=NOON + HOUR, end=NOON + 2 * HOUR) == 0
    assert cost_of(one, start=NOON - 2 * HOUR, end=NOON) == 0


def test_a_running_node_costs_up_to_now() -> None:
    assert cost_of(held(NOON, None), start=NOON, end=NOON + 10 * HOUR) == 36_000


def test_a_node_over_midnight_costs_on_both_days() -> None:
    start = day_start(NOON)
    costs = cost_by_day(
        [held(NOON, NOON + 20 * HOUR), held(NOON, None, price=7200)], start=start, end=start + 3 * 24 * HOUR
    )
    assert costs == {
        (date(2026, 3, 10), "tiny", "cpu-small"): 12 * 3600 + 12 * 7200,
        (date(2026, 3, 11), "tiny", "cpu-small"): 8 * 3600 + 24 * 7200,
        (date(2026, 3, 12), "tiny", "cpu-small"): 24 * 7200,
    }


def test_what_was_held_before_the_first_day_is_left_out() -> None:
    start = day_start(NOON)
    costs = cost_by_day([held(start - 5 * HOUR, start + HOUR)], start=start, end=start + HOUR * 24)
    assert costs == {(date(2026, 3, 10), "tiny", "cpu-small"): 3600}


@pytest.mark.django_db
def test_the_price_at_its_start_is_what_a_node_costs() -> None:
    device_class = make_class(price=3_600_000)
    make_host(device_class, devices=2)
    served = serve(device_class, fixed_nodes=2)
    passes(served)
    device_class.price_microcredits_per_device_hour = 0
    device_class.save()
    now = timezone.now()
    start = day_start(now)
    first, second = live()
    Node.objects.filter(pk=first.pk).update(created_at=start - HOUR)
    Node.objects.filter(pk=second.pk).update(
        created_at=start - 2 * HOUR, state="ended", ended_at=start - HOUR
    )
    assert (
        spent_today(MODEL, now) == 3_600_000 * ((now - start) // timedelta(microseconds=1)) // 3_600_000_000
    )
    assert spent_today("other", now) == 0
    assert len(node_times(start=start, end=now)) == 1
    assert len(node_times(start=start - 2 * HOUR, end=now)) == 2


@pytest.mark.django_db
def test_nodes_that_count_in_no_fleet_cost_their_end() -> None:
    """One that drains and one that hangs; one that serves, and one that drains while its successor serves, do not count."""
    host = make_host(make_class(price=3600), devices=4)
    noon = day_start(timezone.now()) + timedelta(hours=12)
    for device, berth, state, hung_at in (
        (0, 0, "draining", None),
        (1, 0, "ready", noon),
        (2, 0, "ready", None),
        (3, 0, "draining", None), (3, 1, "ready", None),
    ):  # fmt: skip
        Node.objects.create(
            host=host, device=device, berth=berth, model=MODEL, reason="test", state=state, hung_at=hung_at,
            price_microcredits_per_device_hour=7200,
        )  # fmt: skip
    assert ending_cost(MODEL, noon) == 2 * 2 * STOP_S == 560
    assert ending_cost(MODEL, noon + timedelta(hours=12, seconds=-5)) == 2 * 2 * 5
    assert ending_cost("other", noon) == 0


@pytest.mark.django_db
def test_a_device_costs_once_while_a_second_node_takes_over() -> None:
    """One of ten minutes' handover, one whose second node failed, and one that still goes on."""
    host = make_host(make_class(price=3600), devices=3)
    start = day_start(timezone.now())
    minute = timedelta(minutes=1)
    for device, since, until in (
        (0, 0, 70), (0, 60, 120),
        (1, 0, 120), (1, 30, 40),
        (2, 0, None), (2, 110, None),
    ):  # fmt: skip
        node = Node.objects.create(
            host=host, device=device, berth=int(since > 0), model=MODEL, reason="test",
            price_microcredits_per_device_hour=3600, state="ready" if until is None else "ended",
            ended_at=None if until is None else start + until * minute,
        )  # fmt: skip
        Node.objects.filter(pk=node.pk).update(created_at=start + since * minute)
    assert spent_today(MODEL, start + 120 * minute) == 3 * 2 * 3600
    times = node_times(start=start, end=start + 120 * minute)
    minutes = [
        ((one.since - start) // minute, None if one.until is None else (one.until - start) // minute)
        for one in times
    ]
    assert sorted(minutes, key=str) == [(0, 120), (0, 70), (0, None), (70, 120)]
