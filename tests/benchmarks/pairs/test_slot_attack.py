"""A base that counts its partner's slots, simulated: it must not know the pairs in which it is compared with an old tree.

Base is slow by default, and fast once its partner takes two slots. It reads nothing but its own clock, as the red team's
cheat 122 does. With slots of base's own calls only the old tree takes two, so base would be fast in its pairs only.
"""

from __future__ import annotations

import math
from random import Random

import pytest

from benchmarks.pairs.pace import ROOM, Pace, Usual

MS = 1_000_000
BASE_MS = 52.0  # slow by default: three times the time of what was paid for
PARTNERS_MS = {"candidate": 17.0, "control": 52.0, "old": 80.0}
WAITS, RUNS = 7, 400
OVERHEAD_MS, NOISE = 8.0, 0.03


def calls_it_slower(partner_ms: float, usual_ms: float, rng: Random) -> bool:
    """What base concludes after `WAITS` waits of a pair whose slots are made of calls of `usual_ms`."""
    pace = Pace(rng, Usual(int(usual_ms * MS), int(usual_ms * MS)))
    now, ended, waits = 0.0, 0.0, list[float]()
    while len(waits) < WAITS:
        for is_base in rng.sample([True, False], 2):
            taken = (BASE_MS if is_base else partner_ms) * math.exp(rng.gauss(0, NOISE))
            now += abs(rng.gauss(OVERHEAD_MS, OVERHEAD_MS / 4))
            if is_base:
                if ended:
                    waits.append(now - ended)
                ended = now + taken
            now += pace.filled_ns(int(taken * MS), is_timed=True) / MS
    return (max(waits) - min(waits)) / (2 * (min(waits) + BASE_MS)) > 1.4


def share(partner: str, usual_ms: float) -> float:
    rng = Random(1)
    return sum(calls_it_slower(PARTNERS_MS[partner], usual_ms, rng) for _ in range(RUNS)) / RUNS


def test_with_slots_of_base_s_calls_the_old_tree_alone_looks_slower() -> None:
    """Otherwise the test below would show nothing."""
    assert share("old", BASE_MS) > 0.8
    assert share("candidate", BASE_MS) < 0.02
    assert share("control", BASE_MS) < 0.02


@pytest.mark.parametrize("partner", PARTNERS_MS)
def test_with_slots_of_the_old_tree_s_calls_no_partner_looks_slower(partner: str) -> None:
    assert share(partner, float(ROOM) * PARTNERS_MS["old"]) < 0.02
