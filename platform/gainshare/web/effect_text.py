"""Formats measured effects for pages: a change as signed per cent, a speed as a factor. Pure functions.

The figures come from `benchmarks.statistics.units`, so a page and a verdict's reason show the same digits.
"""

import re

from benchmarks.statistics.units import signed_percent, speed_times

_PER_CENT = re.compile(r"(?<![\w.-])(-?)(\d[\d,]*(?:\.\d+)?) %")


def typeset(text: str) -> str:
    """Replace `-24.8 %` in a text by the same figure with a minus sign and a non-breaking space."""
    return _PER_CENT.sub(
        lambda found: ("\N{MINUS SIGN}" if found[1] else "") + found[2] + "\N{NO-BREAK SPACE}%",
        text,
    )


def change_text(log_ppm: int) -> str:
    """ln(base time / candidate time) in millionths as a change of speed: `+5.0 %`; rounded down."""
    return typeset(signed_percent(log_ppm))


def speed_text(log_ppm: int) -> str:
    """ln(origin's time / present time) in millionths as a speed: `3.00×`; rounded down."""
    return speed_times(log_ppm).replace("x", "\N{MULTIPLICATION SIGN}")
