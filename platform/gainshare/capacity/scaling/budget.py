"""Keeps wanted counts within a day's budget, whatever policy wants them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gainshare.capacity.policies.observed import Fleet

# A node is started only if the budget pays all nodes for so long, and is ended when it no longer pays them for so long:
# between the two, a node that was started is not ended at once.
START_S = 600
STOP_S = 120
HOUR_S = 3600


def within_budget(
    wanted: Mapping[str, int],
    *,
    fleets: Mapping[str, Fleet],
    prices: Mapping[str, int],
    left: int | None,
    day_ends_in_s: float,
) -> tuple[dict[str, int], str]:
    """The counts that ``left`` micro-credits pay for, and a note about what was left out (empty: nothing).

    What runs is kept before anything is started; the dearest class is left out first. None is no limit. What nodes that
    drain or hang still cost is in no fleet and already taken off ``left`` (`costs.ending_cost`).
    """
    if left is None:
        return dict(wanted), ""
    running = {name: _running(fleets.get(name)) for name in wanted}
    kept = {name: min(count, running[name]) for name, count in wanted.items()}
    _leave_out(kept, prices, left, min(STOP_S, day_ends_in_s))
    paid = dict(kept)
    for name in sorted(wanted, key=lambda name: (prices.get(name, 0), name)):
        if kept[name] < running[name]:
            continue  # it was just reduced: nothing is started in its place
        while paid[name] < wanted[name]:
            paid[name] += 1
            if _cost(paid, prices, min(START_S, day_ends_in_s)) > left:
                paid[name] -= 1
                break
    missing = {name: wanted[name] - paid[name] for name in wanted if paid[name] < wanted[name]}
    if not missing:
        return paid, ""
    listed = ", ".join(f"{count} {name}" for name, count in sorted(missing.items()))
    return paid, f"the day's budget has {max(left, 0)} micro-credits left, without {listed}"


def payable(
    wanted: Mapping[str, int],
    *,
    fleets: Mapping[str, Fleet],
    prices: Mapping[str, int],
    left: int | None,
    day_ends_in_s: float,
) -> dict[str, int] | None:
    """How many of each class's nodes ``left`` micro-credits pay while those above ``wanted`` wait for their successors.

    None is no limit. ``wanted`` is what `within_budget` gave. A node above the limit ends at once, because nothing may be
    paid beyond the budget until what replaces it is ready.
    """
    if left is None:
        return None
    counts = {name: max(_running(fleets.get(name)), count) for name, count in wanted.items()}
    _leave_out(counts, prices, left, min(STOP_S, day_ends_in_s), least=wanted)
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
