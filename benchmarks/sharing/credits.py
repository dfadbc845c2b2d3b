"""Credits: which gains share what a deployment saves on a line, and with how much of it each is credited. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.sharing.lines import Measures
from benchmarks.sharing.royalties import credits_of
from benchmarks.sharing.savings import MILLION, Placed, Saving, saved_ppm

GainsOfTree = Callable[[str], frozenset[str]]
"""Ids of the gains that a tree contains."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A booked gain: its confirmed log in millionths of a nat, and what its suite measures of a bill."""

    id: str
    log_ppm: int
    measures: Measures


def new_gains(own: Placed, history: Sequence[Placed], gains_of: GainsOfTree) -> frozenset[str]:
    """What the deployment's tree contains and no deployment before it that counts did."""
    new = set(gains_of(own.served.tree))
    for each in history:
        if each.served.at < own.served.at and each.served.counts_at(own.served.at):
            new -= gains_of(each.served.tree)
    return frozenset(new)


def without_effect(
    line: str, own: Placed, history: Sequence[Placed], gains_of: GainsOfTree
) -> frozenset[str]:
    """Gains that an earlier deployment was the first to serve, whose canary clocked this line and found no saving.

    They are credited with nothing on the line if that deployment no longer counts and they come again. Otherwise a
    gain without effect could be deployed until a canary errs.
    """
    found: set[str] = set()
    for each in history:
        if each.served.at < own.served.at and line in each.served.bounds and line not in each.savings:
            found |= new_gains(each, history, gains_of)
    return frozenset(found)


def line_credits(saving: Saving, gains: Sequence[Gain], most: Mapping[str, int]) -> dict[str, int]:
    """Credit of each gain that shares the saving, in millionths of the price before all gains.

    The gains whose suites measure the whole line share it by their logs, then those that measure a part of it share what
    is above these logs: how much of a part's gain reaches the line is not known. Where there are neither, those whose
    suites measure another line share it. Together they are credited at most with what their logs save from the level
    before: a part that is e^g faster cannot make the whole more than e^g faster. So a gain in pieces is credited no more
    than in one, and each at most with what its own log saves. ``most`` has lower limits of gains that come again. The
    rest is the users'.
    """
    line, before, level = saving.line, saving.level_before_log_ppm, saving.level_log_ppm
    whole = [gain for gain in gains if line in gain.measures.whole]
    parts = [gain for gain in gains if line in gain.measures.part]
    if not whole and not parts:
        whole = [gain for gain in gains if gain.measures != Measures()]
    reached = min(level, before + sum(gain.log_ppm for gain in whole))
    return _shared(before, reached, whole, most) | _shared(reached, level, parts, most)


def _shared(before: int, level: int, gains: Sequence[Gain], most: Mapping[str, int]) -> dict[str, int]:
    """Credits of gains that share what is saved between two levels, as far as their logs reach."""
    logs = [gain.log_ppm for gain in gains]
    saved = saved_ppm(before, min(level, before + sum(logs)))
    limits = [min(saved_ppm(before, before + gain.log_ppm), most.get(gain.id, MILLION)) for gain in gains]
    return {gain.id: credit for gain, credit in zip(gains, credits_of(saved, logs, limits), strict=True)}
