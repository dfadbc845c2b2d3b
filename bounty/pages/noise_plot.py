"""Draws a runner's noise history as an inline SVG: one dot per A/A run, and the limit above which it is not believed.

Pure: takes figures, returns markup. One unit of the vertical axis is a per cent of time a pair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 760, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 96, 14, 40
PPM_PER_CENT = 10_000
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class NoisePoint:
    """One A/A run. `noise_log_ppm` is the standard deviation of its pairs; `fault` is empty for a good one."""

    at: datetime
    noise_log_ppm: int
    fault: str = ""


def plot_noise(points: Sequence[NoisePoint], *, limit_log_ppm: int | None, title: str) -> SafeString:
    """The SVG element, oldest run at the left; an empty string without any run."""
    if not points:
        return SafeString("")
    values = [point.noise_log_ppm / PPM_PER_CENT for point in points]
    limit = None if limit_log_ppm is None else limit_log_ppm / PPM_PER_CENT
    top = max([*values, limit or 0.0, 0.1]) * 1.1

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)

    last = max(len(points) - 1, 1)

    def x(place: int) -> float:
        return LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * (place / last if len(points) > 1 else 0.5)

    bad = sum(bool(point.fault) for point in points)
    summary = f"{title}: {len(points)} A/A runs, {bad} of them bad, the last one at {values[-1]:.2f} % noise a pair."
    return format_html(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}{}{}{}</svg>',
        WIDTH,
        HEIGHT,
        summary,
        summary,
        _frame(top, y),
        _limit(limit, y),
        _dots(points, values, x, y),
        _time_axis(points, x),
    )


def _frame(top: float, y: Scale) -> SafeString:
    step = next(nice for nice in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, top) if top / nice <= 5)
    ticks = [place * step for place in range(int(top / step) + 1)]
    rows = [(LEFT, WIDTH - RIGHT, f"{y(tick):.1f}", f"{tick:g}\N{NO-BREAK SPACE}%") for tick in ticks]
    return format_html_join(
        "",
        '<line class="grid-line" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<text x="{0}" dx="-8" y="{2}" dy="4" text-anchor="end">{3}</text>',
        rows,
    )


def _limit(limit: float | None, y: Scale) -> SafeString:
    if limit is None:
        return SafeString("")
    return format_html(
        '<line class="bound" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<text class="bound-label" x="{1}" dx="8" y="{2}" dy="4">limit {3}\N{NO-BREAK SPACE}%</text>',
        LEFT,
        WIDTH - RIGHT,
        f"{y(limit):.1f}",
        f"{limit:.1f}",
    )


def _dots(
    points: Sequence[NoisePoint], values: Sequence[float], x: Callable[[int], float], y: Scale
) -> SafeString:
    rows = [
        (
            "fault" if point.fault else "pair",
            f"{x(place):.1f}",
            f"{y(value):.1f}",
            f"{point.at:%Y-%m-%d %H:%M} UTC: {value:.2f} %{f', {point.fault}' if point.fault else ''}",
        )
        for place, (point, value) in enumerate(zip(points, values, strict=True))
    ]
    return format_html_join("", '<circle class="{}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>', rows)


def _time_axis(points: Sequence[NoisePoint], x: Callable[[int], float]) -> SafeString:
    base = HEIGHT - BOTTOM
    shown = [(0, "start"), (len(points) - 1, "end")] if len(points) > 1 else [(0, "middle")]
    labels = [
        (f"{x(place):.1f}", base + 18, anchor, f"{points[place].at:%Y-%m-%d %H:%M} UTC")
        for place, anchor in shown
    ]
    return format_html(
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>{}',
        LEFT,
        WIDTH - RIGHT,
        base,
        base,
        format_html_join("", '<text x="{}" y="{}" text-anchor="{}">{}</text>', labels),
    )
