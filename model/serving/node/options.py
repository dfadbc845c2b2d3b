"""Bounded numbers for argparse: a value out of bounds ends the command with status 2 and the option's name."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A `type` for argparse: a whole number within bounds, both included."""
    bounds = f"at least {least}" if most is None else f"{least} to {most}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"must be a whole number, {bounds}, not {text!r}")
        return number

    return read


def at_least(least: float) -> Callable[[str], float]:
    """A `type` for argparse: a finite number of at least `least`."""
    return _real(lambda number: number >= least, f"a number of at least {least:g}")


def above(bound: float) -> Callable[[str], float]:
    """A `type` for argparse: a finite number above `bound`."""
    return _real(lambda number: number > bound, f"a number above {bound:g}")


def _real(is_within: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or not is_within(number):
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}")
        return number

    return read
