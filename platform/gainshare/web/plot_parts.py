"""SVG parts of the plots: as wide as their container, with text of constant size. Pure functions.

Horizontal positions are shares of the width, vertical ones are pixels, so a plot fits phones and wide screens.
"""

from collections.abc import Callable, Iterable, Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

Scale = Callable[[float], float]  # a value to pixels from the top, or to a share of the width

LEFT, RIGHT = 0.15, 0.97  # horizontal range of the marks; the axis labels are left of it
TOP, BOTTOM = 24, 30  # pixels above the highest and below the lowest value
LABEL_LIFT = -4  # vertical offset that centres a label on its line


def picture(*, height: int, summary: str, parts: Iterable[SafeString]) -> SafeString:
    """The SVG element. `summary` describes the plot in words."""
    return format_html(
        '<svg class="plot" height="{}" role="img" aria-label="{}"><title>{}</title>{}</svg>',
        height,
        summary,
        summary,
        format_html_join("", "{}", ((part,) for part in parts)),
    )


def across(share: float) -> str:
    """A share of the width as SVG writes it."""
    return f"{100 * share:.2f}%"


def down(pixels: float) -> str:
    """Pixels from the top as SVG writes them."""
    return f"{pixels:.1f}"


def along(count: int) -> Scale:
    """Horizontal positions of `count` points at equal distances; a single one in the middle."""
    return lambda place: LEFT + (RIGHT - LEFT) * (place / (count - 1) if count > 1 else 0.5)


def upwards(low: float, high: float, height: int) -> Scale:
    """Map values from `low` to `high`, which must differ, to vertical positions."""
    return lambda value: TOP + (height - TOP - BOTTOM) * (high - value) / (high - low)


def grid(ticks: Sequence[tuple[float, str]], y: Scale, *, zero: float | None = None) -> SafeString:
    """A horizontal line for each (value, label); the line at `zero` is highlighted."""
    rows = [
        (
            "zero" if zero is not None and abs(value - zero) < 1e-12 else "grid-line",
            down(y(value)),
            LABEL_LIFT,
            label,
        )
        for value, label in ticks
    ]
    return format_html_join(
        "",
        '<line class="{0}" x1="0" x2="100%" y1="{1}" y2="{1}"/><text x="0" y="{1}" dy="{2}">{3}</text>',
        rows,
    )


def line(name: str, height: float) -> SafeString:
    """A horizontal line at a position in pixels."""
    return format_html(
        '<line class="{0}" x1="{1}" x2="100%" y1="{2}" y2="{2}"/>', name, across(LEFT), down(height)
    )


def dots(rows: Iterable[tuple[str, float, float, str]]) -> SafeString:
    """Circles from (class, share of the width, pixels from the top, tooltip)."""
    return format_html_join(
        "",
        '<circle class="{}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>',
        ((name, across(x), down(y), title) for name, x, y, title in rows),
    )


def axis(labels: Iterable[tuple[float, str, str]], *, height: int) -> SafeString:
    """The horizontal axis with labels from (share of the width, anchor, text)."""
    base = height - BOTTOM + 6
    return format_html(
        '<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>{1}',
        base,
        format_html_join(
            "",
            '<text x="{}" y="{}" text-anchor="{}">{}</text>',
            ((across(x), base + 18, anchor, text) for x, anchor, text in labels),
        ),
    )
