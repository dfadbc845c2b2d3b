"""Savings of deployments by line, from the clocked bounds of their canaries. Integers, and one fixed-precision exponential.

A tree's position on a line is how much cheaper it is than the first tree, in millionths of a nat: the position of the
tree that it was timed against, plus the bound. A model's level on a line is the best position of the deployments that
count. A deployment saves what is above the level before it. So whatever raises the level is paid once: a loss that is
mended, a tree that is deployed twice, and gains in another order add nothing, and the savings of parts never exceed the
saving of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_FLOOR, Context, Decimal

from benchmarks.canary.order import DECODE, MEMORY, PREFILL

PRICED_LINES = (PREFILL, DECODE, MEMORY)
MILLION = 1_000_000
EXACT = Context(prec=50, rounding=ROUND_FLOOR)


@dataclass(frozen=True, slots=True)
class Served:
    """One deployment that served, from ``at`` on.

    ``bounds`` are its canary's lower bounds by line, in millionths of a nat, against the tree ``against`` (None: the best
    tree at that time). Without bounds it was not clocked: a model's first deployment, or a rollback. ``lost_at`` is when
    its tree was rolled back, or the last of its gains reversed; from then on it does not count.
    """

    id: str
    tree: str
    at: datetime
    bounds: Mapping[str, int] = field(default_factory=dict)
    against: str | None = None
    lost_at: datetime | None = None

    def counts_at(self, at: datetime) -> bool:
        return self.at <= at and (self.lost_at is None or self.lost_at > at)


@dataclass(frozen=True, slots=True)
class Saving:
    """What one deployment saves on one line: it moved the level, and so the price, in millionths of the reference price."""

    line: str
    level_before_log_ppm: int
    level_log_ppm: int

    @property
    def ppm(self) -> int:
        return saved_ppm(self.level_before_log_ppm, self.level_log_ppm)

    def above_ppm(self, level_log_ppm: int) -> int:
        """What of it is above a level, in millionths of a price that has this level in it already."""
        return saved_ppm(self.level_before_log_ppm - level_log_ppm, self.level_log_ppm - level_log_ppm)

    def below_ppm(self, level_log_ppm: int) -> int:
        """What of it such a price has in it already, in millionths of the price before all gains."""
        return saved_ppm(
            min(self.level_before_log_ppm, level_log_ppm), min(self.level_log_ppm, level_log_ppm)
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A deployment with its position on each line, and what it saves there; lines without a saving are left out."""

    served: Served
    positions: Mapping[str, int]
    savings: Mapping[str, Saving]


def remaining_ppm(level_log_ppm: int) -> int:
    """What is left of a price at this level: e^-level in millionths, rounded down, so to the users' gain."""
    if level_log_ppm <= 0:
        return MILLION
    exponent = EXACT.divide(Decimal(-level_log_ppm), Decimal(MILLION))
    return int(EXACT.multiply(EXACT.exp(exponent), Decimal(MILLION)).to_integral_value(rounding=ROUND_FLOOR))


def saved_ppm(level_before_log_ppm: int, level_log_ppm: int) -> int:
    """What a move from one level to another saves, in millionths of the price at level 0."""
    return remaining_ppm(level_before_log_ppm) - remaining_ppm(level_log_ppm)


def placed(history: Iterable[Served]) -> list[Placed]:
    """Every deployment of one model with its positions and savings, in the order in which they served.

    A tree that was clocked more than once has the lowest of its positions: no one draws again until a bound is high.
    """
    found: list[Placed] = []
    trees: dict[str, dict[str, int]] = {}
    for served in sorted(history, key=lambda each: (each.at, each.id)):
        positions = _positions(served, found, trees)
        kept = trees.setdefault(served.tree, dict(positions))
        for line, position in positions.items():
            kept[line] = min(kept[line], position)
        savings = {}
        for line in PRICED_LINES:
            before = level(found, line, served.at)
            if served.bounds and kept[line] > before:
                savings[line] = Saving(line, before, kept[line])
        found.append(Placed(served, dict(kept), savings))
    return found


def _positions(
    served: Served, before: Sequence[Placed], trees: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    """Position on each line; a tree that was not clocked has its earlier one, else that of the first tree."""
    if not served.bounds:
        return {line: trees.get(served.tree, {}).get(line, 0) for line in PRICED_LINES}
    against = best_tree(before, served.at) if served.against is None else served.against
    other = trees.get(against, {})
    return {line: other.get(line, 0) + served.bounds.get(line, 0) for line in PRICED_LINES}


def level(history: Iterable[Placed], line: str, at: datetime) -> int:
    """Best position on a line, of the deployments that count at that time; at least 0, the first tree's."""
    return max([0, *(each.positions[line] for each in history if each.served.counts_at(at))])


def best_tree(history: Sequence[Placed], at: datetime) -> str:
    """The tree that prices rest on: of the latest deployment that counts and saved something, else the first one's.

    Empty, which is the installed tree, where nothing was deployed.
    """
    counting = [each for each in history if each.served.counts_at(at)]
    saved = [each.served.tree for each in counting if each.savings]
    if saved:
        return saved[-1]
    unclocked = [each.served.tree for each in history[:1] if not each.served.bounds]
    return unclocked[0] if unclocked else ""
