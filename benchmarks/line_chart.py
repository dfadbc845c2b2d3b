"""Line charts as SVG text, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, PANEL_HEIGHT = 760, 230
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 34, 30
MOST_POINTS = 600  # of one line: more would not be seen
GRID, TEXT, FAINT = "#e3e6ea", "#23272e", "#6b7280"
COLOURS = ("#2f6fde", "#d9730d", "#1f9d63", "#9b51e0")


@dataclass(frozen=True)
class Line:
    """A named curve; points whose y is not finite are gaps that are left out."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    has_markers: bool = False  # for curves of few points


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    lines: Sequence[Line]


def draw(
    title: str,
    panels: Sequence[Panel],
    *,
    x_name: str,
    is_x_log: bool = False,
) -> str:
    """An SVG document of the panels below each other, with one x axis.

    Panels without a point are left out. Raises ValueError where none has any, and on a logarithmic axis for an x that
    is not above zero.
    """
    drawn = [
        (panel, points)
        for panel in panels
        if (points := [_thinned(line) for line in panel.lines]) and any(points)
    ]
    if not drawn:
        raise ValueError("there is nothing to draw: no line has a point")
    xs = [x for _, lines in drawn for line in lines for x, _ in line]
    x_axis = _Axis.over(min(xs), max(xs), LEFT, WIDTH - RIGHT, is_log=is_x_log)
    height = TOP + len(drawn) * PANEL_HEIGHT + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 22, title, size=15, weight=600),
    ]
    for number, (panel, lines) in enumerate(drawn):
        parts += _panel(panel, lines, x_axis, TOP + number * PANEL_HEIGHT)
    parts.append(_text(WIDTH - RIGHT, height - 8, x_name, anchor="end", fill=FAINT))
    return "\n".join([*parts, "</svg>"]) + "\n"


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between `low` and `high`, at most `most` of them, at least one where the span holds one."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    ticks = (round(step * k, 12) for k in range(first, math.floor(high / step + 1e-9) + 1))
    slack = 1e-9 * (high - low)  # where numbers are large, rounding alone leads out of a narrow span
    return [tick for tick in ticks if low - slack <= tick <= high + slack]


def short(value: float) -> str:
    """3200000 as 3.2M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def over(cls, low: float, high: float, start: float, end: float, *, is_log: bool = False) -> _Axis:
        if is_log and low <= 0:
            raise ValueError(f"a logarithmic axis needs values above zero, not {low}")
        if high > low:
            return cls(low, high, start, end, is_log)
        margin = abs(low) * 0.1 or 1.0
        return cls(low - margin, high + margin, start, end, is_log)

    def __call__(self, value: float) -> float:
        low, high, at = (self._scaled(number) for number in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        if not self.is_log:
            return nice_ticks(self.low, self.high, most)
        tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        inside = [10.0**power for power in tens if self.low <= 10.0**power <= self.high]
        return inside if len(inside) > 1 else [self.low, self.high]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def _thinned(line: Line) -> list[tuple[float, float]]:
    """The finite points, neighbours averaged where there are too many."""
    points = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _panel(
    panel: Panel,
    lines: Sequence[Sequence[tuple[float, float]]],
    x_axis: _Axis,
    top: float,
) -> list[str]:
    ys = [y for points in lines for _, y in points]
    low, high = min(ys), max(ys)
    margin = (high - low) * 0.06
    floor, ceiling = top + PANEL_HEIGHT - BOTTOM, top + 26
    y_axis = _Axis.over(low - margin, high + margin, floor, ceiling)
    parts = [_text(LEFT, top + 16, panel.title, weight=600)]
    for tick in y_axis.ticks(6):
        y = y_axis(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, y + 4, short(tick), anchor="end", fill=FAINT))
    parts += [
        _text(x_axis(tick), floor + 16, short(tick), anchor="middle", fill=FAINT) for tick in x_axis.ticks(8)
    ]
    legend = WIDTH - RIGHT
    for number, (line, points) in enumerate(zip(panel.lines, lines, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        parts += _curve(points, x_axis, y_axis, colour, has_markers=line.has_markers)
        if points and len(panel.lines) > 1:
            parts.append(_text(legend, top + 16, line.name, anchor="end", fill=colour, weight=600))
            legend -= 8 * len(line.name) + 18
    return parts


def _curve(
    points: Sequence[tuple[float, float]], x_axis: _Axis, y_axis: _Axis, colour: str, *, has_markers: bool
) -> list[str]:
    pixels = [(x_axis(x), y_axis(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>'
    ]
    if has_markers or len(points) == 1:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in pixels]
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = TEXT,
    size: int = 12,
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
