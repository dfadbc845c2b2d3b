"""Draws a served model's nodes and requests over time as inline SVGs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from gainshare.web.plot_parts import LEFT, RIGHT, Scale, across, axis, dots, down, grid, picture, upwards

NODES_HEIGHT, REQUESTS_HEIGHT = 200, 150
MOST_POINTS = 300  # more are not seen apart
MOST_TICKS = 5
Level = tuple[float, float]  # share of the width, value


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """A decision as the plot shows it. ``reason`` is empty for one that changed nothing."""

    at: datetime
    wanted: int
    ready: int
    requests: int
    reason: str = ""


def thinned(points: Sequence[ScalingPoint], most: int = MOST_POINTS) -> list[ScalingPoint]:
    """At most about ``most`` points: those that changed something, and evenly chosen others."""
    step = math.ceil(len(points) / most)
    return [point for place, point in enumerate(points) if point.reason or place % step == 0]


def plot_nodes(points: Sequence[ScalingPoint], *, start: datetime, end: datetime) -> SafeString:
    """Wanted and ready nodes as steps, and a dot for each change; oldest first. Empty without points."""
    if not points:
        return SafeString("")
    top = max(*(max(point.wanted, point.ready) for point in points), 1)
    ticks = whole_ticks(top)
    y = upwards(0.0, float(ticks[-1]), NODES_HEIGHT)
    x = by_time(start, end)
    changes = sum(1 for point in points if point.reason)
    last = points[-1]
    return picture(
        height=NODES_HEIGHT,
        summary=f"Nodes over time: {changes} changes, {last.wanted} wanted and {last.ready} ready at the end.",
        parts=[
            grid([(float(tick), str(tick)) for tick in ticks], y),
            steps("median", ((x(_seconds(point.at)), float(point.ready)) for point in points), y),
            steps("bound", ((x(_seconds(point.at)), float(point.wanted)) for point in points), y),
            dots(_changes(points, x, y)),
            _time_axis(start, end, NODES_HEIGHT),
        ],
    )


def plot_requests(points: Sequence[ScalingPoint], *, start: datetime, end: datetime) -> SafeString:
    """Requests in flight as steps; oldest first. Empty without points."""
    if not points:
        return SafeString("")
    ticks = whole_ticks(max(*(point.requests for point in points), 1))
    y = upwards(0.0, float(ticks[-1]), REQUESTS_HEIGHT)
    x = by_time(start, end)
    return picture(
        height=REQUESTS_HEIGHT,
        summary=f"Requests in flight over time: {max(point.requests for point in points)} at most.",
        parts=[
            grid([(float(tick), str(tick)) for tick in ticks], y),
            steps("median", ((x(_seconds(point.at)), float(point.requests)) for point in points), y),
            _time_axis(start, end, REQUESTS_HEIGHT),
        ],
    )


def whole_ticks(top: int) -> list[int]:
    """At most six whole numbers from 0 on at equal round steps, the last one not below ``top``."""
    step = next(
        factor * 10**power
        for power in range(12)
        for factor in (1, 2, 5)
        if math.ceil(top / (factor * 10**power)) <= MOST_TICKS
    )
    return [place * step for place in range(max(1, math.ceil(top / step)) + 1)]


def by_time(start: datetime, end: datetime) -> Scale:
    """UTC seconds to a share of the width; what is outside is drawn at the edge."""
    first, span = _seconds(start), max(_seconds(end) - _seconds(start), 1.0)
    return lambda at: LEFT + (RIGHT - LEFT) * min(max((at - first) / span, 0.0), 1.0)


def steps(name: str, levels: Iterable[Level], y: Scale) -> SafeString:
    """Lines of a value that holds until the next one, and to the right edge."""
    points = list(levels)
    rows = []
    for (x, value), (next_x, next_value) in zip(points, [*points[1:], (RIGHT, points[-1][1])], strict=True):
        rows.append((name, across(x), across(next_x), down(y(value)), down(y(value))))
        if next_value != value:
            rows.append((name, across(next_x), across(next_x), down(y(value)), down(y(next_value))))
    return format_html_join("", '<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>', rows)


def _changes(points: Sequence[ScalingPoint], x: Scale, y: Scale) -> Iterable[tuple[str, float, float, str]]:
    for point in points:
        if point.reason:
            title = f"{point.at:%d %b, %H:%M:%S} UTC: {point.reason}"
            yield "pair", x(_seconds(point.at)), y(float(point.wanted)), title


def _time_axis(start: datetime, end: datetime, height: int) -> SafeString:
    written = "%d %b, %H:%M" if start.date() != end.date() else "%H:%M"
    middle = start + (end - start) / 2
    return axis(
        [
            (LEFT, "start", start.strftime(written)),
            ((LEFT + RIGHT) / 2, "middle", middle.strftime(written)),
            (RIGHT, "end", end.strftime(written) + " UTC"),
        ],
        height=height,
    )


def _seconds(at: datetime) -> float:
    return at.timestamp()
