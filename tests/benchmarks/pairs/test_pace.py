"""How long a side is frozen does not tell how fast its partner is, within a slot."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median

import pytest

from benchmarks.pairs import clocked
from benchmarks.pairs.pace import LEAST, MOST, UNKNOWN_NS, Pace, whole_slots
from benchmarks.pairs.seeds import Seeds
from tests.benchmarks.pairs.hostile_suite import hostile_suite, run_pairs, script_tree

MS = 1_000_000
CALLS = 12
BASE_S, FAST_S, SLOW_S = 0.05, 0.005, 0.12  # each is within one of the slots, with room for a busy machine
USUAL_NS = 200 * MS  # what a calibration would have told
# Far below what the partners differ by, far above what a busy machine adds to the median gap.
RESOLUTION_MS = 40.0


def test_a_call_fills_whole_slots() -> None:
    assert [whole_slots(ns, 10) for ns in (0, 1, 9, 10, 11, 20, 21)] == [10, 10, 10, 10, 20, 20, 30]


def test_all_partners_within_a_slot_look_the_same() -> None:
    pace = Pace(Random(1), 100 * MS)
    filled = {pace.filled_ns(ms * MS, is_timed=True) for ms in (1, 20, 50, 99, 109)}
    assert len(filled) == 1 and LEAST * 100 * MS <= filled.pop() <= MOST * 100 * MS
    assert pace.filled_ns(400 * MS, is_timed=True) > 400 * MS


def test_slots_differ_from_pair_to_pair() -> None:
    slots = {Pace(Random(number), 100 * MS).filled_ns(1, is_timed=True) for number in range(200)}
    assert len(slots) > 150
    assert min(slots) < 1.15 * 100 * MS and max(slots) > 1.4 * 100 * MS


def test_until_base_s_time_is_known_slots_are_fixed() -> None:
    pace = Pace(Random(1))
    assert pace.filled_ns(3, is_timed=True) == UNKNOWN_NS
    pace.learn("candidate", 7 * MS)
    assert pace.filled_ns(3, is_timed=True) == UNKNOWN_NS
    pace.learn("base", 7 * MS)
    assert 7 * MS < pace.filled_ns(3, is_timed=True) < 11 * MS
    assert pace.filled_ns(3, is_timed=False) == UNKNOWN_NS  # a warm-up may take longer


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
@pytest.mark.slow
def test_gaps_do_not_tell_a_fast_partner_from_a_slow_one(tmp_path: Path) -> None:
    assert apart_ms(tmp_path) < RESOLUTION_MS


@pytest.mark.sandbox
@pytest.mark.slow
def test_without_slots_gaps_would_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would show nothing."""
    monkeypatch.setattr(clocked, "rest_until", lambda _: None)
    assert apart_ms(tmp_path) > RESOLUTION_MS
