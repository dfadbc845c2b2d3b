"""Draws a run's pairs as an inline SVG: one dot per pair, the zero line, the median, the confirmed bound.

Pure: takes log ratios, returns markup. The vertical axis is linear in ln(base time / candidate time), where gains
add up, and is labelled in what people read: per cent of speed, or factors where they are large.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

Scale = Callable[[float], float]  # a value to pixels

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 82, 132, 18, 46
LARGE = math.log(1.5)  # beyond this a factor reads better than per cent
LABEL_GAP = 15  # pixels between two lines of labels at the right


@dataclass(frozen=True, slots=True)
class PairPoint:
    """One pair. `log_ratio` is ln(base time / candidate time): above zero the candidate was faster."""

    index: int
    log_ratio: float
    is_control: bool = False


def effect_label(log_ratio: float, *, decimals: int = 1, as_factor: bool = False) -> str:
    """A log ratio as people read it: `+5.0 %` faster, `-3.2 %`, or `4.1×` where it is large or asked for."""
    factor = math.exp(log_ratio)
    if as_factor or abs(log_ratio) > LARGE:
        return f"{factor:.3g}\N{MULTIPLICATION SIGN}"
    per_cent = round(100 * (factor - 1), decimals) + 0.0
    sign = "+" if per_cent > 0 else "\N{MINUS SIGN}" if per_cent < 0 else ""
    return f"{sign}{abs(per_cent):.{decimals}f}\N{NO-BREAK SPACE}%"


def plot_pairs(
    points: Sequence[PairPoint], *, bound: float | None = None, title: str = "Pairs"
) -> SafeString:
    """The SVG element; an empty string where no pair was measured. `bound` is the run's one-sided lower bound."""
    finite = [point for point in points if math.isfinite(point.log_ratio)]
    measured = [point.log_ratio for point in finite if not point.is_control]
    if not measured:
        return SafeString("")
    middle = median(measured)
    values = [point.log_ratio for point in finite] + [0.0] + ([] if bound is None else [bound])
    ticks = axis_ticks(min(values), max(values))
    as_factor = spans_factors(ticks)
    low, high = min([*values, ticks[0]]), max([*values, ticks[-1]])
    padding = (high - low) * 0.04
    low, high = low - padding, high + padding

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    last = max(len(finite) - 1, 1)

    def x(place: float) -> float:
        return LEFT + 14 + (WIDTH - LEFT - RIGHT - 28) * (place / last if len(finite) > 1 else 0.5)

    lines = [("median", middle, f"median {effect_label(middle, as_factor=as_factor)}")]
    if bound is not None:
        lines.append(("bound", bound, f"bound {effect_label(bound, as_factor=as_factor)}"))
    summary = (
        f"{title}: {len(measured)} measured pairs, median {effect_label(middle)} against base"
        f"{'' if bound is None else f', lower bound {effect_label(bound)}'}."
    )
    return format_html(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}{}{}{}</svg>',
        WIDTH,
        HEIGHT,
        summary,
        summary,
        _frame(ticks, y),
        _lines(lines, y),
        _dots(finite, x, y),
        _pair_axis(finite, x),
    )


def axis_ticks(low: float, high: float) -> list[float]:
    """Three to eight log ratios at round percentages, or at round factors where the span is large, around 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 0.004:
        low, high = low - 0.002, high + 0.002
    if max(high, -low) > LARGE:
        step = max(1, math.ceil((high - low) / math.log(2) / 6))
        first, last = math.floor(low / math.log(2) / step), math.ceil(high / math.log(2) / step)
        return [place * step * math.log(2) for place in range(first, last + 1)]
    first_per_cent, last_per_cent = 100 * math.expm1(low), 100 * math.expm1(high)
    step_per_cent = _nice_step((last_per_cent - first_per_cent) / 5)
    first = math.floor(first_per_cent / step_per_cent)
    last = math.ceil(last_per_cent / step_per_cent)
    return [math.log1p(place * step_per_cent / 100) for place in range(first, last + 1)]


def spans_factors(ticks: Sequence[float]) -> bool:
    """Whether an axis with these ticks is labelled in factors."""
    return max(abs(ticks[0]), abs(ticks[-1])) > LARGE


def _nice_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(nice * magnitude for nice in (1, 2, 2.5, 5, 10) if nice * magnitude >= rough)


def _frame(ticks: Sequence[float], y: Scale) -> SafeString:
    step = abs(math.expm1(ticks[1]) - math.expm1(ticks[0])) * 100
    decimals = 0 if step >= 1 else 1 if step >= 0.1 else 2
    rows = []
    for tick in ticks:
        label = effect_label(tick, decimals=decimals, as_factor=spans_factors(ticks))
        rows.append(("zero" if abs(tick) < 1e-12 else "grid-line", LEFT, _px(y(tick)), WIDTH - RIGHT, label))
    return format_html(
        '{}<text x="14" y="{}" transform="rotate(-90 14 {})" text-anchor="middle">speed against base</text>',
        format_html_join(
            "",
            '<line class="{0}" x1="{1}" x2="{3}" y1="{2}" y2="{2}"/>'
            '<text x="{1}" dx="-8" y="{2}" dy="4" text-anchor="end">{4}</text>',
            rows,
        ),
        (HEIGHT - BOTTOM + TOP) // 2,
        (HEIGHT - BOTTOM + TOP) // 2,
    )


def _lines(lines: Sequence[tuple[str, float, str]], y: Scale) -> SafeString:
    """Horizontal lines with labels at their right ends, moved apart where they would overlap."""
    rows: list[tuple[str, int, str, int, str, str]] = []
    taken: list[float] = []
    for name, value, label in sorted(lines, key=lambda line: -line[1]):
        height = y(value)
        label_at = max([height, *(other + LABEL_GAP for other in taken)])
        taken.append(label_at)
        rows.append((name, LEFT, _px(height), WIDTH - RIGHT, _px(label_at), label))
    return format_html_join(
        "",
        '<line class="{0}" x1="{1}" x2="{3}" y1="{2}" y2="{2}"/>'
        '<text class="{0}-label" x="{3}" dx="8" y="{4}" dy="4">{5}</text>',
        rows,
    )


def _dots(points: Sequence[PairPoint], x: Scale, y: Scale) -> SafeString:
    rows = [
        (
            "control" if point.is_control else "pair",
            _px(x(place)),
            _px(y(point.log_ratio)),
            f"{'control pair' if point.is_control else 'pair'} {point.index}: {effect_label(point.log_ratio)}",
        )
        for place, point in enumerate(points)
    ]
    return format_html_join("", '<circle class="{}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>', rows)


def _pair_axis(points: Sequence[PairPoint], x: Scale) -> SafeString:
    every = max(1, math.ceil(len(points) / 12))
    base = HEIGHT - BOTTOM
    labels = [(_px(x(place)), base + 18, points[place].index) for place in range(0, len(points), every)]
    return format_html(
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>{}<text x="{}" y="{}" text-anchor="middle">pair</text>',
        LEFT,
        WIDTH - RIGHT,
        base,
        base,
        format_html_join("", '<text x="{}" y="{}" text-anchor="middle">{}</text>', labels),
        (LEFT + WIDTH - RIGHT) // 2,
        HEIGHT - 8,
    )


def _px(value: float) -> str:
    return f"{value:.1f}"
