"""Plots of nodes, requests, cost and revenue."""

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from gainshare.web.cost_plot import CostDay, plot_cost, round_ticks
from gainshare.web.scaling_plot import (
    ScalingPoint,
    plot_nodes,
    plot_requests,
    steps,
    thinned,
    whole_ticks,
)

START = datetime(2026, 3, 10, 12, tzinfo=UTC)
END = START + timedelta(hours=1)


def point(minute: int, wanted: int, ready: int, reason: str = "", requests: int = 0) -> ScalingPoint:
    return ScalingPoint(START + timedelta(minutes=minute), wanted, ready, requests, reason)


def test_a_value_holds_until_the_next_one_and_to_the_edge() -> None:
    html = steps("median", [(0.2, 1.0), (0.5, 3.0)], lambda value: 100 - 10 * value)
    lines = re.findall(r'x1="([\d.]+%)" x2="([\d.]+%)" y1="([\d.]+)" y2="([\d.]+)"', html)
    assert lines == [
        ("20.00%", "50.00%", "90.0", "90.0"),
        ("50.00%", "50.00%", "90.0", "70.0"),
        ("50.00%", "97.00%", "70.0", "70.0"),
    ]


def test_each_change_has_its_reason() -> None:
    html = plot_nodes(
        [point(0, 1, 1, "+1 <cpu>: start"), point(10, 1, 1), point(20, 3, 1, "+2 cpu: peak")],
        start=START,
        end=END,
    )
    assert html.count("<circle") == 2
    assert "10 Mar, 12:20:00 UTC: +2 cpu: peak" in html
    assert "&lt;cpu&gt;" in html and "<cpu>" not in html
    assert "2 changes, 3 wanted and 1 ready at the end" in html
    assert "13:00 UTC" in html


def test_nothing_is_drawn_of_nothing() -> None:
    assert (
        plot_nodes([], start=START, end=END) == plot_requests([], start=START, end=END) == plot_cost([]) == ""
    )


def test_what_is_before_the_window_is_at_its_edge() -> None:
    html = plot_requests([point(-500, 1, 1, requests=7)], start=START, end=END)
    assert 'x1="15.00%"' in html and "7 at most" in html


@pytest.mark.parametrize("top", [1, 4, 5, 6, 17, 99, 1000, 123_456])
def test_ticks_are_whole_few_and_cover_the_top(top: int) -> None:
    for ticks in (whole_ticks(top), round_ticks(top)):
        assert ticks[0] == 0 and ticks[-1] >= top and 2 <= len(ticks) <= 6
        assert len({later - earlier for earlier, later in pairwise(ticks)}) == 1


def test_thinning_keeps_every_change() -> None:
    points = [point(minute, 1, 1, "change" if minute % 100 == 7 else "") for minute in range(1000)]
    kept = thinned(points, 50)
    assert sum(1 for one in kept if one.reason) == 10 and len(kept) <= 65
    assert thinned(points[:20], 50) == points[:20]


def test_cost_and_revenue_are_side_by_side() -> None:
    days = [CostDay(date(2026, 3, 10), 3_000_000, 0), CostDay(date(2026, 3, 11), 1_500_000, 4_000_000)]
    html = plot_cost(days)
    assert html.count("bar-cost") == 2 and html.count("bar-revenue") == 1
    assert "11 Mar: revenue 4 credits" in html
    assert "Cost and revenue of 2 days: 4.5 and 4 credits." in html
