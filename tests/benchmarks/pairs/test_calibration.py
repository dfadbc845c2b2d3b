"""How many calls a pair gets on this machine, and what its slots are made of."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks import bench
from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs import calibration
from benchmarks.pairs.calibration import (
    LEAST_CALLS,
    TIMED_NS,
    Calibration,
    CalibrationFailed,
    calibrated,
    calls_for,
    is_paced,
    with_calls,
)
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pace import ROOM, Pace, Usual
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.runner import PairRunner
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed, SideSetup
from benchmarks.sandbox import SandboxLevel, best_level
from benchmarks.suites import get_suite
from benchmarks.suites.base import Suite
from tests.benchmarks.pairs.hostile_suite import hostile_suite, script_tree

MS = 1_000_000
CASE = "doubling"
CALL_MS = {"base": 20, "old": 50}


@pytest.mark.parametrize(
    ("call_ns", "calls"),
    [(1, 60), (TIMED_NS // 80, 40), (TIMED_NS // 40, 20), (TIMED_NS, 20)],
)
def test_calls_take_about_as_long_as_a_pair_takes_to_start(call_ns: int, calls: int) -> None:
    assert calls_for(call_ns, 20, 60) == calls


def paced_suite(most_calls: int = 0) -> Suite:
    return replace(hostile_suite(call_ms=20_000), preset="demo", most_calls=most_calls)


def calibration_of(
    suite: Suite, trees: dict[str, Path], *, is_confirmation: bool, level: SandboxLevel
) -> Calibration:
    with closing(NamelessCopies(trees)) as copies:
        return calibrated(
            copies,
            SideSetup(suite, level, choose_cores(), wall_s=120),
            Seeds(bytes(range(32))),
            is_confirmation=is_confirmation,
            has_old="old" in trees,
            phases=Phases(),
            quiet=Quiet(),
            cancellation=Cancellation(),
            sample_log=SampleLog(lambda _: None),
        )


def planned(
    monkeypatch: pytest.MonkeyPatch, *, failing: str = "", is_confirmation: bool = True, most_calls: int = 0
) -> tuple[Calibration, list[str]]:
    """The calibration of trees whose calls take `CALL_MS`, and the trees of its pairs; `failing` is a side that fails."""
    taken = []

    def measure(pair: Pair, _: Cancellation) -> None:
        taken.append(pair.plan.tree)
        if pair.plan.tree == "old" and failing:
            raise SideFailed("crash", failing, "load", "no such module")
        for side, tree in (("base", "base"), ("candidate", pair.plan.tree)):
            pair.record.calls += [(side, CALL_MS[tree] * MS)]
            pair.record.first_ns[side] = 3 * CALL_MS[tree] * MS

    monkeypatch.setattr(calibration, "measure", measure)
    trees = {"base": Path("base"), "old": Path("old")}
    found = calibration_of(
        paced_suite(most_calls), trees, is_confirmation=is_confirmation, level=SandboxLevel.NONE
    )
    return found, taken


def test_where_an_old_tree_is_timed_slots_are_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    found, taken = planned(monkeypatch)
    assert taken == ["base", "old"]
    assert found.usual == {CASE: Usual(50 * MS, 150 * MS).times(ROOM)}
    assert found.as_dict() == {
        "tree": "old",
        "room_ppm": 1_250_000,
        "call_ns": {CASE: 62_500_000},
        "first_ns": {CASE: 187_500_000},
    }


def test_an_old_tree_that_fails_leaves_slots_of_base_s_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planned(monkeypatch, failing="old")
    assert found.old_failure is not None and found.old_failure.side == "old"
    assert (found.tree, found.usual) == ("base", {CASE: Usual(20 * MS, 60 * MS).times(ROOM)})


def test_base_that_fails_beside_the_old_tree_fails_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CalibrationFailed) as failed:
        planned(monkeypatch, failing="base")
    assert failed.value.failure.side == "base"
    assert failed.value.pair.plan.tree == "old"


@pytest.mark.parametrize(
    ("suite", "base_ms", "longer", "calls"),
    [
        ("moe_forward", 10, 1.0, 60),
        ("moe_forward", 10, 2.0, 30),
        ("moe_forward", 30, 4.0, 10),
        ("moe_forward", 30, 0.5, 20),  # base is slower than the tree before it
        ("decode", 20, 1.0, 96),
        ("decode", 20, 1.5, 64),
        ("decode", 20, 20.0, 10),
        ("checkpoint_load", 900, 3.0, 1),
    ],
)
def test_longer_slots_have_fewer_calls_so_that_a_pair_takes_about_as_long(
    suite: str, base_ms: int, longer: float, calls: int
) -> None:
    assert with_calls(get_suite(suite, "demo"), base_ms * MS, longer).calls_per_side == calls


def test_the_old_tree_s_calls_make_those_of_a_pair_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planned(monkeypatch, most_calls=60)
    assert found.suite.calls_per_side == LEAST_CALLS  # of 24, for slots that are 2.5 times as long


def test_only_confirmations_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scheduled checks are confirmations to a judge: their slots have the same length as those against the old tree."""
    found, _ = planned(monkeypatch, is_confirmation=False)
    assert found.room == Fraction(1)
    assert found.usual == {CASE: Usual(50 * MS, 150 * MS)}


@pytest.mark.parametrize(
    ("suite", "preset", "paced"),
    [
        ("moe_forward", "demo", True),
        ("decode", "tour", True),
        ("prefill", "standard", True),
        ("decode_batched", "demo", True),
        ("train_step", "demo", True),
        ("checkpoint_load", "demo", True),
        ("quality", "demo", False),
        ("time_to_loss", "demo", False),
        ("peak_memory", "demo", False),
        ("moe_forward", "tiny", False),
    ],
)
def test_timed_calls_of_every_preset_that_earns_awards_are_paced(
    suite: str, preset: str, paced: bool
) -> None:
    assert is_paced(get_suite(suite, preset)) is paced


def gaps_of(log: str, pair: int) -> list[float]:
    """Milliseconds that base's sample of this pair saw between its calls, after the warm-up."""
    moments = [
        int(ns) for ns in re.findall(rf"^\[base, pair {pair}\] CLOCK \w+ (\d+)$", log, flags=re.MULTILINE)
    ]
    return [(begin - end) / MS for end, begin in pairwise(moments)][1::2]


@pytest.mark.sandbox
@pytest.mark.measures
@pytest.mark.parametrize("is_hidden", [True, False])
def test_a_slow_base_cannot_tell_the_old_tree_from_a_fast_candidate(
    open_folder: Path, is_hidden: bool
) -> None:
    """The attack: base is slow by default (50 ms), and fast where its partner takes two slots, as old does (120 ms).

    With slots of base's own calls it can, else the test would show nothing.
    """
    suite = replace(paced_suite(), calls_per_side=12)
    own = [["clock", "begin"], ["sleep", 0.05], ["clock", "end"]]
    trees = {
        "base": script_tree(open_folder / "base", call=own),
        "candidate": script_tree(open_folder / "candidate", call=[["sleep", 0.02]]),
        "old": script_tree(open_folder / "old", call=[["sleep", 0.12]]),
    }
    found = calibration_of(suite, trees, is_confirmation=True, level=best_level())
    assert found.tree == "old" and found.usual[CASE].call_ns > 1.25 * 120 * MS
    usual = found.usual if is_hidden else {CASE: Usual(60 * MS, 60 * MS)}
    slots: dict[str, list[float]] = {"candidate": [], "old": []}
    log: list[str] = []
    seeds = Seeds(bytes(range(32)))
    with closing(NamelessCopies(trees)) as copies:
        runner = PairRunner(
            copies,
            SideSetup(suite, best_level(), choose_cores(), wall_s=120),
            seeds,
            phases=Phases(),
            quiet=Quiet(),
            cancellation=Cancellation(),
            on_log=log.append,
            on_pair=lambda _: None,
        )
        runner.measure_with(suite, usual)
        runner.take_block({CASE: 3}, controls=0, old=3)
    assert not runner.events, runner.events
    for pair in runner.pairs:
        pace = Pace(seeds.order("pair", pair["index"], "pace"), usual[CASE])
        slot_ms = pace.filled_ns(1, is_timed=True) / MS
        slots[pair["tree"]].append(median(_turns(gaps_of("".join(log), pair["index"]))) / slot_ms)
    assert len(slots["candidate"]) == len(slots["old"]) == 3
    takes_one = {
        tree: max(slots[tree]) < 2.95 for tree in slots
    }  # in addition to its own, and to the judge's work
    assert takes_one == {"candidate": True, "old": is_hidden}, slots


def _turns(gaps: list[float]) -> list[float]:
    """How long each two turns together took, halved: the order of calls within a turn is random."""
    own = 50.0
    return [(first + second) / 2 + own for first, second in pairwise(gaps)]


@pytest.mark.long
@pytest.mark.sandbox
@pytest.mark.measures
def test_the_number_of_calls_is_in_the_evidence(open_folder: Path) -> None:
    out = open_folder / "evidence.json"
    arguments = ["--kind", "aa", "--preset", "demo", "--looks", "1", "--out", str(out), "--json"]
    assert bench.main(arguments) == 0
    document: dict[str, Any] = json.loads(out.read_text())["document"]
    suite = get_suite("moe_forward", "demo")
    (case,) = document["suite"]["cases"]
    assert suite.calls_per_side <= case["calls"] <= suite.most_calls
    assert document["environment"]["slots"]["tree"] == "base"
    assert document["verdict"]["kind"] != "infrastructure_error", document["verdict"]["reason"]
    assert all(len(pair["calls"]) == 2 * case["calls"] for pair in document["pairs"])
