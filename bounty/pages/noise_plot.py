"""Draws a runner's noise history as an inline SVG: one dot per A/A run, and the limit for quarantine.

Pure functions. The vertical axis is in per cent of time per pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.safestring import SafeString

from gainshare.web.plot_parts import Scale, along, axis, dots, grid, line, picture, upwards

HEIGHT = 220
PPM_PER_CENT = 10_000


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
    x, y = along(len(points)), upwards(0.0, top, HEIGHT)
    bad = sum(bool(point.fault) for point in points)
    allowed = "" if limit is None else f", {limit:.1f} % allowed"
    return picture(
        height=HEIGHT,
        summary=(
            f"{title}: {len(points)} A/A runs, {bad} of them bad, the last one at {values[-1]:.2f} % "
            f"noise per pair{allowed}."
        ),
        parts=[
            grid(_ticks(top), y),
            *([] if limit is None else [line("bound", y(limit))]),
            _dots(points, values, x, y),
            _time_axis(points, x),
        ],
    )


def _ticks(top: float) -> list[tuple[float, str]]:
    step = next(nice for nice in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, top) if top / nice <= 5)
    return [(place * step, f"{place * step:g}\N{NO-BREAK SPACE}%") for place in range(int(top / step) + 1)]


def _dots(points: Sequence[NoisePoint], values: Sequence[float], x: Scale, y: Scale) -> SafeString:
    return dots(
        (
            "fault" if point.fault else "pair",
            x(place),
            y(value),
            f"{point.at:%Y-%m-%d %H:%M} UTC: {value:.2f} %{f', {point.fault}' if point.fault else ''}",
        )
        for place, (point, value) in enumerate(zip(points, values, strict=True))
    )


def _time_axis(points: Sequence[NoisePoint], x: Scale) -> SafeString:
    shown = [(0, "start"), (len(points) - 1, "end")] if len(points) > 1 else [(0, "middle")]
    return axis(
        [(x(place), anchor, f"{points[place].at:%d %b, %H:%M} UTC") for place, anchor in shown], height=HEIGHT
    )
