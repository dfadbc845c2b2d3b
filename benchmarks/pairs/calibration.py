"""Number of calls of a pair on this machine, measured before the first pair that counts.

Starting a pair costs seconds, whatever is measured in it; more calls than a few make its number steadier until the
machine's own drift takes over. So the calls of a pair should take about as long as a pair takes to start, and how many
that is depends on the machine and on the tree. One base/base pair tells. The number found is in the evidence.
"""

import statistics
from dataclasses import replace

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.nameless import NamelessCopies
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


class CalibrationFailed(Exception):
    """A pair of the calibration failed: both of its sides ran base."""

    def __init__(self, pair: Pair, failure: SideFailed) -> None:
        super().__init__(str(failure))
        self.pair, self.failure = pair, failure


def calls_for(call_ns: int, fewest: int, most: int) -> int:
    """Calls of each side whose turns take about `TIMED_NS`, within the suite's range."""
    return max(fewest, min(most, TIMED_NS // (2 * call_ns)))


def calibrated(
    copies: NamelessCopies,
    setup: SideSetup,
    seeds: Seeds,
    *,
    phases: Phases,
    quiet: Quiet,
    cancellation: Cancellation,
    sample_log: SampleLog,
) -> tuple[Suite, dict[str, int]]:
    """The suite with a number of calls that suits its slowest case, and what a call takes in each case that was measured.

    Raises CalibrationFailed and Cancelled.
    """
    suite = setup.suite
    usual_ns: dict[str, int] = {}
    if suite.most_calls <= suite.calls_per_side:
        return suite, usual_ns
    for index, case in enumerate(suite.cases):
        plan = PairPlan(index, case.name, case.draw(seeds.numbers("shape", index)), "base")
        pair = Pair(plan, copies, setup, seeds, phases, quiet, sample_log)
        try:
            measure(pair, cancellation)
        except SideFailed as failure:
            raise CalibrationFailed(pair, failure) from failure
        usual_ns[case.name] = statistics.median_low([ns for _, ns in pair.record.calls])
    slowest_ns = max(1, *usual_ns.values())
    calls = calls_for(slowest_ns, suite.calls_per_side, suite.most_calls)
    return replace(suite, calls_per_side=calls), usual_ns
