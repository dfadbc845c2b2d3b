"""A claim: its name, its text, and the rows that it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.claims.bench import Bench
from benchmarks.claims.scale import Scale
from benchmarks.report import Row


@dataclass(frozen=True)
class Curve:
    """A line of a plot."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Figure:
    """A plot: curves over one x axis."""

    title: str
    x_name: str
    y_name: str
    curves: Sequence[Curve]
    is_x_log: bool = False


@dataclass(frozen=True)
class Measured:
    """A claim's rows and plots."""

    rows: Sequence[Row]
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Claim:
    """`says` is the claim in one sentence; `measure` raises MeasuringFailed where it cannot be measured."""

    name: str
    says: str
    measure: Callable[[Bench, Scale], Measured]
