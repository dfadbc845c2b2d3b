"""How long a side is frozen does not tell how fast its partner is, within a slot."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest

from benchmarks.pairs import clocked
from benchmarks.pairs.cores import CacheScrubber, choose_cores
from benchmarks.pairs.pace import LEAST, MOST, ROOM, UNKNOWN_NS, Pace, Usual, whole_slots
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seeds import Seeds
from benchmarks.suites.base import Tensors
from tests.benchmarks.pairs.hostile_suite import hostile_suite, run_pairs, script_tree

MS = 1_000_000
CALLS = 12
BASE_S, FAST_S, SLOW_S = 0.05, 0.005, 0.12  # each is within one of the slots, with room for a busy machine
USUAL_NS = 200 * MS  # what a calibration would have told
CALLS_OF_100_MS = Usual(100 * MS, 100 * MS)
# Far below what the partners differ by, far above what a busy machine adds to the median gap.
RESOLUTION_MS = 40.0


def test_a_call_fills_whole_slots() -> None:
    assert [whole_slots(ns, 10) for ns in (0, 1, 9, 10, 11, 20, 21)] == [10, 10, 10, 10, 20, 20, 30]


def test_all_partners_within_a_slot_look_the_same() -> None:
    pace = Pace(Random(1), CALLS_OF_100_MS)
    filled = {pace.filled_ns(ms * MS, is_timed=True) for ms in (1, 20, 50, 99, 109)}
    assert len(filled) == 1 and LEAST * 100 * MS <= filled.pop() <= MOST * 100 * MS
    assert pace.filled_ns(400 * MS, is_timed=True) > 400 * MS


def test_slots_differ_from_pair_to_pair() -> None:
    slots = {Pace(Random(number), CALLS_OF_100_MS).filled_ns(1, is_timed=True) for number in range(200)}
    assert len(slots) > 150
    assert min(slots) < 1.15 * 100 * MS and max(slots) > 1.4 * 100 * MS


def test_calls_that_are_not_timed_have_slots_of_their_own() -> None:
    pace = Pace(Random(1), Usual(7 * MS, 90 * MS))
    assert 7 * MS < pace.filled_ns(3, is_timed=True) < 11 * MS
    assert pace.filled_ns(3, is_timed=False) == UNKNOWN_NS
    assert 90 * MS < pace.filled_ns(3, is_timed=False, is_first=True) < 136 * MS
    short = Pace(Random(1), Usual(7 * MS, 9 * MS))
    assert short.filled_ns(3, is_timed=False, is_first=True) == UNKNOWN_NS


def test_room_makes_both_longer() -> None:
    assert Usual(100, 1_001).times(ROOM) == Usual(125, 1_252)


@pytest.mark.parametrize("gain", [1.2, 2.25, 3.0, 6.0])
def test_an_old_tree_takes_one_slot_as_a_fast_candidate_and_base_do(gain: float) -> None:
    """Base is slow by default, as slow as the old tree, and would be fast where its partner takes two slots."""
    old = Usual(int(20 * gain * MS), int(60 * gain * MS)).times(ROOM)
    for number in range(200):
        pace = Pace(Random(number), old)
        for partner in (20, 20 * gain, 1.27 * 20 * gain):  # candidate, base or old, old with a larger shape
            assert pace.filled_ns(int(partner * MS), is_timed=True) == pace.filled_ns(1, is_timed=True)
            first = pace.filled_ns(int(3 * partner * MS), is_timed=False, is_first=True)
            assert first == pace.filled_ns(1, is_timed=False, is_first=True)


class Timed:
    """A side whose calls take exactly so long."""

    def __init__(self, elapsed_ns: int) -> None:
        self._elapsed_ns = elapsed_ns

    def call(self, exchanges: object) -> tuple[Tensors, int]:
        return {}, self._elapsed_ns

    def take_cpu_while_frozen_ns(self) -> int:
        return 0


@pytest.mark.parametrize("is_timed", [True, False])
def test_call_and_rest_together_do_not_depend_on_a_partner_within_a_slot(
    is_timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen_ns = set()
    for elapsed_ns in (1, 5 * MS, 30 * MS, 49 * MS):
        rests: list[int] = []
        monkeypatch.setattr(clocked, "rest", rests.append)
        sides: Any = {"base": Timed(40 * MS), "candidate": Timed(elapsed_ns)}
        pace = Pace(Random(1), Usual(50 * MS, 50 * MS))
        record = clocked.PairRecord(PairPlan(0, "x", {}), ("base", "candidate"))
        pair = clocked.Clocked(
            sides, record, CacheScrubber(choose_cores().measuring), Phases(), Quiet(), lambda: None, pace
        )
        pair.call("candidate", (), is_timed=is_timed)
        frozen_ns.add(
            elapsed_ns + rests[0]
        )  # what base is frozen for, in addition to what is the same for all
    assert len(frozen_ns) == 1


def gaps_ms(folder: Path, partner_s: float, seeds: Seeds) -> list[float]:
    """What base's sample sees between the end of each of its calls and the beginning of its next one."""
    own = [["clock", "begin"], ["sleep", BASE_S], ["clock", "end"]]
    trees = {
        "base": script_tree(folder / "base", call=own),
        "candidate": script_tree(folder / "candidate", call=[["sleep", partner_s]]),
    }
    runner, log = run_pairs(trees, hostile_suite(calls=CALLS, call_ms=20_000), seeds=seeds, usual_ns=USUAL_NS)
    assert not runner.events, runner.events
    moments = [int(ns) for ns in re.findall(r"^\[base, pair 0\] CLOCK \w+ (\d+)$", log, flags=re.MULTILINE)]
    assert len(moments) == 2 * (CALLS + 1)
    gaps = [(begin - end) / MS for end, begin in pairwise(moments)][1::2]
    return gaps[1:]  # the first is after the warm-up


def apart_ms(folder: Path) -> float:
    """How far the gaps beside a fast partner are from those beside a slow one, turn by turn in one order of calls."""
    seeds = Seeds(bytes(range(32)))
    fast, slow = (gaps_ms(folder / str(partner), partner, seeds) for partner in (FAST_S, SLOW_S))
    return median(abs(one - other) for one, other in zip(fast, slow, strict=True))


@pytest.mark.sandbox
@pytest.mark.measures
def test_gaps_do_not_tell_a_fast_partner_from_a_slow_one(tmp_path: Path) -> None:
    assert apart_ms(tmp_path) < RESOLUTION_MS


@pytest.mark.sandbox
@pytest.mark.measures
def test_without_slots_gaps_would_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would show nothing."""
    monkeypatch.setattr(clocked, "rest", lambda _: None)
    assert apart_ms(tmp_path) > RESOLUTION_MS
