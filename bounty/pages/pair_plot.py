"""Draws a run's pairs as an inline SVG: one dot per pair, the zero line, the median, the bound.

Pure functions. The vertical axis is linear in ln(base time / candidate time), in which gains add up, and
labelled in per cent of change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from django.utils.safestring import SafeString

from benchmarks.statistics.units import floor_ppm
from gainshare.web.effect_text import change_text
from gainshare.web.plot_parts import Scale, along, axis, dots, grid, line, picture, upwards

HEIGHT = 260
LARGE = math.log(1.5)  # beyond this the ticks are factors of two
MOST_LABELS = 8


@dataclass(frozen=True, slots=True)
class PairPoint:
    """One pair. `log_ratio` is ln(base time / candidate time): above zero the candidate was faster."""

    index: int
    log_ratio: float
    is_control: bool = False


def plot_pairs(
    points: Sequence[PairPoint],
    *,
    estimate_log_ppm: int | None = None,
    bound_log_ppm: int | None = None,
    bound_side: str = "lower",
    title: str = "Pairs",
    height: int = HEIGHT,
) -> SafeString:
    """The SVG element; an empty string if no pair was measured.

    The estimate is the verdict's, or the median of the pairs without a verdict. `bound_side` says which bound
    is drawn.
    """
    finite = [point for point in points if math.isfinite(point.log_ratio)]
    middle = median_log_ppm(finite) if estimate_log_ppm is None else estimate_log_ppm
    if middle is None:
        return SafeString("")
    bounds = [] if bound_log_ppm is None else [bound_log_ppm / 1e6]
    values = [*(point.log_ratio for point in finite), 0.0, middle / 1e6, *bounds]
    ticks = axis_ticks(min(values), max(values))
    y = upwards(min([*values, ticks[0]]), max([*values, ticks[-1]]), height)
    x = along(len(finite))
    n_measured = sum(not point.is_control for point in finite)
    stated = "" if bound_log_ppm is None else f", {bound_side} bound {change_text(bound_log_ppm)}"
    return picture(
        height=height,
        summary=f"{title}: {n_measured} measured pairs, median {change_text(middle)} against base{stated}.",
        parts=[
            grid(list(zip(ticks, tick_labels(ticks), strict=True)), y, zero=0.0),
            line("median", y(middle / 1e6)),
            *(line("bound", y(bound)) for bound in bounds),
            _dots(finite, x, y),
            _pair_axis(finite, x, height),
        ],
    )


def median_log_ppm(points: Sequence[PairPoint]) -> int | None:
    """The median of the measured pairs in millionths of a nat, rounded down; None without any."""
    measured = [
        point.log_ratio for point in points if not point.is_control and math.isfinite(point.log_ratio)
    ]
    return floor_ppm(median(measured)) if measured else None


def axis_ticks(low: float, high: float) -> list[float]:
    """Three to eight log ratios at round percentages, or at powers of two where the span is large, around 0."""
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


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of the ticks in per cent, with enough decimals to differ from each other."""
    per_cents = [100 * math.expm1(tick) for tick in ticks]
    step = min(after - before for before, after in pairwise(per_cents))
    decimals = 0 if step >= 1 else 1 if step >= 0.1 else 2
    return [_per_cent(value, decimals) for value in per_cents]


def _per_cent(value: float, decimals: int) -> str:
    rounded = round(value, decimals) + 0.0
    sign = "+" if rounded > 0 else "\N{MINUS SIGN}" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{decimals}f}\N{NO-BREAK SPACE}%"


def _nice_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(nice * magnitude for nice in (1, 2, 2.5, 5, 10) if nice * magnitude >= rough)


def _dots(points: Sequence[PairPoint], x: Scale, y: Scale) -> SafeString:
    return dots(
        (
            "control" if point.is_control else "pair",
            x(place),
            y(point.log_ratio),
            f"{'control pair' if point.is_control else 'pair'} {point.index}: "
            f"{change_text(floor_ppm(point.log_ratio))}",
        )
        for place, point in enumerate(points)
    )


def _pair_axis(points: Sequence[PairPoint], x: Scale, height: int) -> SafeString:
    every = max(1, math.ceil(len(points) / MOST_LABELS))
    labels = [(x(place), "middle", str(points[place].index)) for place in range(0, len(points), every)]
    return axis([(0.0, "start", "pair"), *labels], height=height)
