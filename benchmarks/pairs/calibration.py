"""Number of calls of a pair on this machine, and the length of its slots, measured before the first pair that counts.

Starting a pair costs seconds, whatever is measured in it; more calls than a few make its number steadier until the
machine's own drift takes over. So the calls of a pair should take about as long as a pair takes to start, and how many
that is depends on the machine and on the tree. One base/base pair of each case tells.

Where the run also times an old tree, one pair of base and old in each case tells what the old tree's calls take. The
slots of all pairs of the run have its length (`pace`), and there are as many calls fewer as they are longer, down to
LEAST_CALLS. What was found is in the evidence.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.clocked import PairRecord
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pace import ROOM, Usual
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.runner import measure
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed, SideSetup
from benchmarks.suites.base import Suite

TIMED_NS = 1_200_000_000  # of both sides together; a pair starts in about two seconds
LEAST_CALLS = 10  # of a side where slots are longer for an old tree: preset `tour` was as steady as with 24
PPM = 1_000_000


class CalibrationFailed(Exception):
    """A pair of the calibration failed, and it was not the old tree."""

    def __init__(self, pair: Pair, failure: SideFailed) -> None:
        super().__init__(str(failure))
        self.pair, self.failure = pair, failure


@dataclass(frozen=True)
class Calibration:
    """The suite with a number of calls that suits its slowest case, and what slots are made of.

    `usual` is what calls of `tree` take in each case, `room` included; empty where pairs are not paced. `old_failure` is
    what the old tree did wrong: then slots are of base's calls, and the old tree is not measured.
    """

    suite: Suite
    usual: Mapping[str, Usual] = field(default_factory=dict)
    tree: str = "base"
    room: Fraction = Fraction(1)
    old_failure: SideFailed | None = None

    def as_dict(self) -> dict[str, Any] | None:
        """The slots as they are in the evidence; None where pairs are not paced."""
        if not self.usual:
            return None
        return {
            "tree": self.tree,
            "room_ppm": int(self.room * PPM),
            "call_ns": {case: usual.call_ns for case, usual in self.usual.items()},
            "first_ns": {case: usual.first_ns for case, usual in self.usual.items()},
        }


def calls_for(call_ns: int, fewest: int, most: int) -> int:
    """Calls of each side whose turns take about `TIMED_NS`, within the suite's range."""
    return max(fewest, min(most, TIMED_NS // (2 * call_ns)))


def is_paced(suite: Suite) -> bool:
    """Whether the pairs fill slots: those of timed calls, in presets that earn awards."""
    return suite.trial is None and suite.preset in suite.info.presets


def calibrated(
    copies: NamelessCopies,
    setup: SideSetup,
    seeds: Seeds,
    *,
    is_confirmation: bool,
    has_old: bool,
    phases: Phases,
    quiet: Quiet,
    cancellation: Cancellation,
    sample_log: SampleLog,
) -> Calibration:
    """Measure one pair of base and itself in each case and, with `has_old`, one of base and the old tree.

    Raises CalibrationFailed and Cancelled.
    """
    suite = setup.suite
    if not is_paced(suite):
        return Calibration(suite)

    def pairs_with(tree: str) -> dict[str, PairRecord]:
        """A record of each case, with `tree` on the candidate's side."""
        found = {}
        for place, case in enumerate(suite.cases):
            index = place + (len(suite.cases) if tree == "old" else 0)
            plan = PairPlan(index, case.name, case.draw(seeds.numbers("shape", index)), tree)
            pair = Pair(plan, copies, setup, seeds, phases, quiet, sample_log)
            try:
                measure(pair, cancellation)
            except SideFailed as failure:
                raise CalibrationFailed(pair, failure) from failure
            found[case.name] = pair.record
        return found

    tree, old_failure = "base", None
    records = pairs_with("base")
    usual = own = {case: usual_of(record, ("base", "candidate")) for case, record in records.items()}
    if has_old:
        try:
            olds = pairs_with("old")
        except CalibrationFailed as error:
            if error.failure.side != "old":
                raise
            old_failure = error.failure
        else:
            tree, usual = "old", {case: usual_of(record, ("candidate",)) for case, record in olds.items()}
    room = ROOM if is_confirmation else Fraction(1)
    longer = max(usual[case].call_ns / own[case].call_ns for case in own)
    slowest_ns = max(each.times(room).call_ns for each in own.values())
    usual = {case: each.times(room) for case, each in usual.items()}
    return Calibration(with_calls(suite, slowest_ns, longer), usual, tree, room, old_failure)


def usual_of(record: PairRecord, sides: tuple[str, ...]) -> Usual:
    """What calls of these sides of a measured pair took."""
    calls = statistics.median_low([ns for side, ns in record.calls if side in sides])
    return Usual(max(1, calls), max(record.first_ns[side] for side in sides))


def with_calls(suite: Suite, base_ns: int, longer: float) -> Suite:
    """The suite with its calls for a base whose slowest ones take `base_ns`, and slots that are `longer` than these."""
    calls = suite.calls_per_side
    if suite.most_calls > calls:
        calls = calls_for(base_ns, calls, suite.most_calls)
    if longer > 1:
        calls = max(min(calls, LEAST_CALLS), int(calls / longer))
    return replace(suite, calls_per_side=calls)
