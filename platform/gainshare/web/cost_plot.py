"""Draws each day's cost beside its revenue as an inline SVG. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from gainshare.web.formatting import format_credits
from gainshare.web.plot_parts import LEFT, RIGHT, across, axis, down, grid, picture, upwards

HEIGHT = 220
MOST_TICKS = 5
PAIR = 0.25  # of a day's width: distance of its two bars from its middle


@dataclass(frozen=True, slots=True)
class CostDay:
    """A day's sums in micro-credits."""

    day: date
    cost: int
    revenue: int


def plot_cost(days: Sequence[CostDay]) -> SafeString:
    """Two bars for each day, oldest first: what its nodes cost and what its requests paid. Empty without days."""
    if not days:
        return SafeString("")
    ticks = round_ticks(max(*(max(day.cost, day.revenue) for day in days), 1))
    y = upwards(0.0, float(ticks[-1]), HEIGHT)
    width = (RIGHT - LEFT) / len(days)
    cost, revenue = (sum(values) for values in zip(*((day.cost, day.revenue) for day in days), strict=True))
    bars = []
    for place, day in enumerate(days):
        middle = LEFT + width * (place + 0.5)
        bars.append(
            ("bar-cost", across(middle - PAIR * width), day.cost, f"cost {format_credits(day.cost)}", day)
        )
        bars.append(
            (
                "bar-revenue",
                across(middle + PAIR * width),
                day.revenue,
                f"revenue {format_credits(day.revenue)}",
                day,
            )
        )
    return picture(
        height=HEIGHT,
        summary=(
            f"Cost and revenue of {len(days)} days: {format_credits(cost)} and {format_credits(revenue)} credits."
        ),
        parts=[
            grid([(float(tick), format_credits(tick)) for tick in ticks], y),
            format_html_join(
                "",
                '<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"><title>{}: {} credits</title></line>',
                (
                    (name, x, x, down(y(0.0)), down(y(float(value))), f"{day.day:%d %b}", text)
                    for name, x, value, text, day in bars
                    if value
                ),
            ),
            axis(
                [
                    (LEFT, "start", f"{days[0].day:%d %b}"),
                    *([(RIGHT, "end", f"{days[-1].day:%d %b}")] if len(days) > 1 else []),
                ],
                height=HEIGHT,
            ),
        ],
    )


def round_ticks(top: int) -> list[int]:
    """At most six amounts from 0 on at equal round steps, the last one not below ``top``."""
    step = next(
        factor * 10**power
        for power in range(19)
        for factor in (1, 2, 5)
        if top <= MOST_TICKS * factor * 10**power
    )
    return [place * step for place in range(max(1, -(-top // step)) + 1)]
