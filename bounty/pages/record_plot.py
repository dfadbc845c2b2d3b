"""Draws a series' record over time as an inline SVG: the confirmed speed over the origin, one dot for each gain.

Pure functions. The vertical axis is linear in ln(origin's time / present time), so equal gains have equal
heights, and labelled in speeds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bounty.services.leaderboards import Place
from gainshare.web.effect_text import change_text, speed_text
from gainshare.web.plot_parts import LEFT, RIGHT, Scale, across, axis, dots, down, grid, picture, upwards

HEIGHT = 240
FIRST = LEFT + 0.06  # position of the first gain; the origin's speed is drawn left of it
MOST_TICKS = 6
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # between two ticks, in speed


@dataclass(frozen=True, slots=True)
class RecordPoint:
    """One gain, in log_ppm: confirmed speed over the origin, upper end of that interval, own gain."""

    at: datetime
    reached_log_ppm: int
    most_log_ppm: int
    step_log_ppm: int
    who: str


def record_of(places: Iterable[Place]) -> SafeString:
    """The plot of a leaderboard."""
    points = [
        RecordPoint(
            place.series_at, place.log_ppm_reached, place.log_ppm_most, place.log_ppm_bound, place.submitter
        )
        for place in places
    ]
    return plot_record(sorted(points, key=lambda point: (point.at, point.reached_log_ppm)))


def plot_record(points: Sequence[RecordPoint]) -> SafeString:
    """The SVG element, oldest gain at the left; an empty string without any."""
    if not points:
        return SafeString("")
    ticks = speed_ticks(max(point.most_log_ppm for point in points) / 1e6)
    y = upwards(0.0, max(ticks[-1], *(point.most_log_ppm / 1e6 for point in points)), HEIGHT)
    x = _by_time(points)
    gains = f"{len(points)} confirmed gain{'' if len(points) == 1 else 's'}"
    return picture(
        height=HEIGHT,
        summary=(
            f"The record over time: {gains}, {speed_text(points[-1].reached_log_ppm)} over the series' origin."
        ),
        parts=[
            grid([(tick, f"{math.exp(tick):g}\N{MULTIPLICATION SIGN}") for tick in ticks], y),
            _staircase(points, x, y),
            _spreads(points, x, y),
            dots(_dot_rows(points, x, y)),
            _end_label(points[-1], x, y),
            _time_axis(points, x),
        ],
    )


def speed_ticks(top: float) -> list[float]:
    """At most six speeds from 1 on at round steps, the last one not below `top`; in nats."""
    most = math.exp(top) - 1
    step = next((step for step in STEPS if most / step <= MOST_TICKS - 1), None)
    if step is not None:
        return [
            math.log(round(1 + place * step, 2)) for place in range(max(2, math.ceil(most / step - 1e-9) + 1))
        ]
    doublings = max(1, math.ceil(top / math.log(2) / (MOST_TICKS - 1)))
    last = math.ceil(top / math.log(2) / doublings)
    return [place * doublings * math.log(2) for place in range(last + 1)]


def _by_time(points: Sequence[RecordPoint]) -> Scale:
    """A point's number to its share of the width, by time; all at one moment are side by side."""
    first, last = points[0].at, points[-1].at
    span = (last - first).total_seconds()
    end = RIGHT - 0.05
    if span <= 0:
        return lambda place: FIRST + (end - FIRST) * (place / max(len(points) - 1, 1))
    return lambda place: FIRST + (end - FIRST) * ((points[int(place)].at - first).total_seconds() / span)


def _staircase(points: Sequence[RecordPoint], x: Scale, y: Scale) -> SafeString:
    rows, level, left = [], y(0.0), LEFT
    for place, point in enumerate(points):
        height = y(point.reached_log_ppm / 1e6)
        rows += [(across(left), across(x(place)), down(level), down(level))]
        rows += [(across(x(place)), across(x(place)), down(level), down(height))]
        level, left = height, x(place)
    rows.append((across(left), "100%", down(level), down(level)))
    return format_html_join("", '<line class="median" x1="{}" x2="{}" y1="{}" y2="{}"/>', rows)


def _spreads(points: Sequence[RecordPoint], x: Scale, y: Scale) -> SafeString:
    return format_html_join(
        "",
        '<line class="spread" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>',
        (
            (across(x(place)), down(y(point.reached_log_ppm / 1e6)), down(y(point.most_log_ppm / 1e6)))
            for place, point in enumerate(points)
        ),
    )


def _dot_rows(points: Sequence[RecordPoint], x: Scale, y: Scale) -> Iterable[tuple[str, float, float, str]]:
    for place, point in enumerate(points):
        title = (
            f"{point.who}, {point.at:%d %b %Y, %H:%M} UTC: {speed_text(point.reached_log_ppm)}, own gain "
            f"{change_text(point.step_log_ppm)}"
        )
        yield "pair", x(place), y(point.reached_log_ppm / 1e6), title


def _end_label(last: RecordPoint, x: Scale, y: Scale) -> SafeString:
    return format_html(
        '<text class="median-label" x="100%" y="{}" text-anchor="end">{}</text>',
        down(y(last.reached_log_ppm / 1e6) + 18),
        speed_text(last.reached_log_ppm),
    )


def _time_axis(points: Sequence[RecordPoint], x: Scale) -> SafeString:
    shown = [(FIRST, "start", points[0])]
    if len(points) > 1:
        shown.append((RIGHT, "end", points[-1]))
    return axis([(share, anchor, f"{point.at:%d %b %Y}") for share, anchor, point in shown], height=HEIGHT)
