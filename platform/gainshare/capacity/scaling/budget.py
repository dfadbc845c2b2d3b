"""Keeps wanted counts within a day's budget, whatever policy wants them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gainshare.capacity.policies.observed import Fleet

# A node is started only if the budget pays all nodes for so long, and is ended when it no longer pays them for so long:
# between the two, a node that was started is not ended at once.
START_S = 600
# What a node may cost once it is to go: its agent's longest drain, the graces after it, and the heartbeats that tell.
STOP_S = 140
HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Day:
    """What there is, what a device-hour of each class costs, and what is ``left`` to pay it (None: no limit)."""

    fleets: Mapping[str, Fleet]
    prices: Mapping[str, int]
    left: int | None
    ends_in_s: float


def within_budget(wanted: Mapping[str, int], day: Day) -> tuple[dict[str, int], str]:
    """The counts that the day's ``left`` micro-credits pay for, and a note about what was left out (empty: nothing).

    What runs is kept before anything is started; the dearest class is left out first. None is no limit. What nodes that
    drain or hang still cost is in no fleet and already taken off ``left`` (`costs.ending_cost`).
    """
    if day.left is None:
        return dict(wanted), ""
    running = {name: _running(day.fleets.get(name)) for name in wanted}
    kept = {name: min(count, running[name]) for name, count in wanted.items()}
    _leave_out(kept, day.prices, day.left, min(STOP_S, day.ends_in_s))
    paid = dict(kept)
    for name in sorted(wanted, key=lambda name: (day.prices.get(name, 0), name)):
        if kept[name] < running[name]:
            continue  # it was just reduced: nothing is started in its place
        while paid[name] < wanted[name]:
            paid[name] += 1
            if _cost(paid, day.prices, min(START_S, day.ends_in_s)) > day.left:
                paid[name] -= 1
                break
    missing = {name: wanted[name] - paid[name] for name in wanted if paid[name] < wanted[name]}
    if not missing:
        return paid, ""
    listed = ", ".join(f"{count} {name}" for name, count in sorted(missing.items()))
    return paid, f"the day's budget has {max(day.left, 0)} micro-credits left, without {listed}"


def payable(wanted: Mapping[str, int], day: Day) -> dict[str, int] | None:
    """How many of each class's nodes the day's ``left`` micro-credits pay while those above ``wanted`` wait for their successors.

    None is no limit. ``wanted`` is what `within_budget` gave. A node above the limit ends at once, because nothing may be
    paid beyond the budget until what replaces it is ready.
    """
    if day.left is None:
        return None
    counts = {name: max(_running(day.fleets.get(name)), count) for name, count in wanted.items()}
    _leave_out(counts, day.prices, day.left, min(STOP_S, day.ends_in_s), least=wanted)
    return counts


def _running(fleet: Fleet | None) -> int:
    return 0 if fleet is None else fleet.ready + fleet.starting


def _leave_out(
    counts: dict[str, int],
    prices: Mapping[str, int],
    left: int,
    seconds: float,
    least: Mapping[str, int] | None = None,
) -> None:
    """Lower ``counts`` in place, the dearest first and to ``least`` at most, until ``left`` pays them for ``seconds``."""
    for name in sorted(counts, key=lambda name: (-prices.get(name, 0), name)):
        while (
            counts[name] > (least or {}).get(name, 0)
            and prices.get(name, 0)
            and _cost(counts, prices, seconds) > left
        ):
            counts[name] -= 1


def _cost(counts: Mapping[str, int], prices: Mapping[str, int], seconds: float) -> int:
    per_hour = sum(count * prices.get(name, 0) for name, count in counts.items())
    return -(-per_hour * round(seconds) // HOUR_S)  # rounded up
