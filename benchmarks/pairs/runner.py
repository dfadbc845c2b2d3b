"""Takes a block of pairs after the other, as the schedule says.

The next pair is prepared only when the one before is over, so nothing but the pair being measured runs while a clock
does. What goes wrong with a sample is kept as an event.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pace import Usual
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan, Schedule
from benchmarks.pairs.seats import has_tree
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed, SideSetup
from benchmarks.suites.base import Suite

logger = logging.getLogger(__name__)

#: What the judge's own code raises at data that it did not expect. The machine's faults are other exceptions.
STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def failure_of(act: Callable[[], object]) -> dict[str, str] | None:
    """What failed while `act` ran, in the form of the evidence; None where nothing did."""
    try:
        act()
    except SideFailed as failure:
        return {"kind": failure.kind, "stage": failure.stage, "detail": failure.detail}
    return None


def measure(pair: Pair, cancellation: Cancellation) -> None:
    """Measure a pair and end it. Raises SideFailed for whatever went wrong with a sample, and Cancelled.

    Where the judge stumbles over what a sample sent, no one knows yet whose it was: base is named, so that it is tried
    without the candidate.
    """
    try:
        with closed(pair), cancellation.ends(pair.kill):
            try:
                pair.prepare()
                pair.measure()
            except STUMBLES as error:
                logger.exception("pair %d", pair.plan.index)
                words = f"the judge could not go on: {type(error).__name__}: {error}"
                raise SideFailed("crash", "base", "call", words) from error
    except SideFailed:
        cancellation.check()  # what ends because we killed it has not failed
        raise


@contextmanager
def closed(pair: Pair) -> Iterator[None]:
    """Close the pair after the block; the block's failure goes before one of closing."""
    try:
        yield
    except BaseException:
        with suppress(SideFailed):
            pair.close()
        raise
    pair.close()


class PairRunner:
    """`pairs`, `events` and the counts of checks grow while it runs, in the evidence's own form."""

    def __init__(
        self,
        copies: NamelessCopies,
        setup: SideSetup,
        seeds: Seeds,
        *,
        phases: Phases,
        quiet: Quiet,
        cancellation: Cancellation,
        on_log: Callable[[str], None],
        on_pair: Callable[[int], None],
        on_complete: Callable[[dict[str, Any], dict[str, int]], None] = lambda pair, checks: None,
    ) -> None:
        self.pairs: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.outputs_checked = 0
        self.oracle_checked = 0
        self.outputs_differing = 0
        self.failed_pair: Pair | None = None  # the one whose failure is the last event
        self.measured: Counter[str] = Counter()  # measured pairs that count, by case
        self._copies, self._setup, self._seeds = copies, setup, seeds
        self._phases, self._quiet, self._cancellation = phases, quiet, cancellation
        self._on_log, self._on_pair, self._on_complete = on_log, on_pair, on_complete
        self._usual: dict[str, Usual] = {}
        self._schedule = Schedule(setup.suite, seeds)
        self.sample_log = SampleLog(on_log)

    @property
    def has_lost_old(self) -> bool:
        """True once the old tree failed: no more of its pairs are measured, and the run continues."""
        return any(event["side"] == "old" for event in self.events)

    @property
    def has_ended(self) -> bool:
        """True once anything else failed."""
        return any(event["side"] != "old" for event in self.events)

    def measure_with(self, suite: Suite, usual: Mapping[str, Usual]) -> None:
        """Take all pairs with this form of the suite, whose cases are the same. Before the first pair.

        `usual` is what slots are made of, in each case that a calibration has measured.
        """
        self._setup, self._usual = replace(self._setup, suite=suite), dict(usual)

    def take_block(self, wanted: Mapping[str, int], *, controls: int, old: int = 0, direct: int = 0) -> None:
        """Measure the next block on the way to so many pairs of each case, and so many pairs of each other kind.

        Or until an event ends the run. Raises Cancelled.
        """
        short = {case: pairs - self.measured[case] for case, pairs in wanted.items()}
        plans = self._schedule.block(short, controls=controls, old=old, direct=direct)
        if not plans:  # all pairs are of earlier attempts: control pairs need a measured one next to them
            plans = self._schedule.block(dict.fromkeys(wanted, 1), controls=max(1, controls))
        for plan in plans:
            if self.has_ended:
                return
            if not (self.has_lost_old and has_tree(plan.tree, "old")):
                self._take(plan)

    def _take(self, plan: PairPlan) -> None:
        self._cancellation.check_between_pairs()
        self._one(
            Pair(
                plan,
                self._copies,
                self._setup,
                self._seeds,
                self._phases,
                self._quiet,
                self.sample_log,
                usual=self._usual.get(plan.case),
            )
        )
        self._on_pair(self.measured.total())

    def attempt_alone(self, pair: Pair) -> dict[str, Any]:
        """Measure `pair` once more with base on both sides, in the form of the evidence's `base_checks`."""
        again = pair.of_base_alone()
        failure = failure_of(lambda: measure(again, self._cancellation))
        record = again.record
        if len(record.calls) % 2:
            record.calls.pop()
        return {"pair": record.as_dict(), "failure": failure}

    def _one(self, pair: Pair) -> None:
        try:
            measure(pair, self._cancellation)
        except SideFailed as failure:
            self._keep(pair)
            self.failed_pair = pair
            self.add_event(failure, pair=pair.plan.index)
            return
        self._keep(pair)
        if pair.plan.tree == "candidate":
            self.measured[pair.plan.case] += 1
        checks = {
            "outputs_checked": pair.record.outputs_checked,
            "oracle_checked": pair.record.oracle_checked,
        }
        self._on_complete(self.pairs[-1], checks)

    def _keep(self, pair: Pair) -> None:
        record = pair.record
        self.outputs_checked += record.outputs_checked
        self.oracle_checked += record.oracle_checked
        self.outputs_differing += record.outputs_differing
        if len(record.calls) % 2:  # interrupted within a turn: half a turn says nothing
            record.calls.pop()
        self.pairs.append(record.as_dict())

    def add_event(self, failure: SideFailed, *, pair: int | None = None) -> None:
        """Note what ended the run, in the evidence and in the log."""
        event: dict[str, Any] = {
            "kind": failure.kind,
            "detail": failure.detail,
            "side": failure.side,
            "stage": failure.stage,
        }
        if pair is not None:
            event["pair"] = pair
        self.events.append(event)
        self._on_log(f"{failure.kind}: {failure.side} at {failure.stage}: {failure.detail}\n")
