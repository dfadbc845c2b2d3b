"""One fresh pair: two new sandboxed processes whose calls alternate in random order, one of them frozen at any time.

Nothing is left of a pair when it is over, and nothing of it was there before, but for the copies of the run's trees, which
sides can only read (`nameless`). How a pair is measured is in `turns` and `trial`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from benchmarks.pairs import trial
from benchmarks.pairs.clocked import Clocked, PairRecord
from benchmarks.pairs.cores import CacheScrubber, judge_on, scrubbed_bytes
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pace import LOAD_NS, Pace, Usual, rest, whole_slots
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seats import SEATS, SIDES
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import Side, SideFailed, SideSetup
from benchmarks.pairs.turns import Turns
from benchmarks.sandbox import Unsteerable
from benchmarks.sandbox.page_cache import hold_python_in_page_cache

SLOTS = {"base": 0, "candidate": 1, "old": 2}
IN_A_DIRECT_PAIR = "in a pair with the tree before base in base's place"


class Pair:
    """Prepare (no clock runs), measure, close. `kill` may come from any thread and ends it at once.

    A failure is that of the tree in the seat: in a control pair it is base's on both sides.
    """

    def __init__(
        self,
        plan: PairPlan,
        copies: NamelessCopies,
        setup: SideSetup,
        seeds: Seeds,
        phases: Phases,
        quiet: Quiet,
        sample_log: SampleLog,
        *,
        checks_all: bool = False,
        usual: Usual | None = None,
    ) -> None:
        """With `checks_all` the oracle is asked for every turn. Slots are made of `usual`; without it there are none."""
        self.plan, self._sample_log = plan, sample_log
        self._setup, self._seeds, self._phases, self._quiet = setup, seeds, phases, quiet
        suite = setup.suite.part(plan.case)
        if plan.tree == "direct":
            suite = suite.with_patches_apart(2)  # base's own patch and the candidate's
        self._suite = replace(suite, oracle_checks=suite.calls_per_side) if checks_all else suite
        self._copies = copies
        first = seeds.order("pair", plan.index, "spawn").sample(SIDES, 2)
        self.record = PairRecord(plan, spawn_order=(first[0], first[1]))
        self._sides: dict[str, Side] = {}
        self._usual = usual
        self._lock = threading.Lock()
        self._is_killed = False

    def of_base_alone(self) -> "Pair":
        """The same pair once more in fresh processes, with the same inputs and base on both sides."""
        return Pair(
            replace(self.plan, tree="base", next_to=self.plan.index),
            self._copies,
            self._setup,
            self._seeds,
            self._phases,
            self._quiet,
            self._sample_log,
            checks_all=True,
            usual=self._usual,
        )

    def prepare(self) -> None:
        """Start both sides at once, in random order, and wait until both have imported torch and stand frozen.

        Raises SideFailed.
        """
        with self._phases.spend("setup"):
            hold_python_in_page_cache()
            folders = self._copies.draw(self.plan.tree, self._seeds.order("pair", self.plan.index, "copies"))
            for name in self.record.spawn_order:
                slot = self.record.spawn_order.index(name)  # at random, as the order is
                side = Side(name, folders[name], self._suite, self._setup, slot)
                with self._lock:
                    self._sides[name] = side
                    if self._is_killed:
                        side.kill()
        with self._phases.spend("import"), self._naming_the_tree():
            for name in self.record.spawn_order:
                self._sides[name].await_ready()
        self._pass_on_logs()

    def measure(self) -> None:
        """Fill `record`. Raises SideFailed where a sample did not answer, or answered wrongly (kind wrong_output)."""
        with self._naming_the_tree():
            self._measure()

    def _measure(self) -> None:
        suite, index, cores = self._suite, self.plan.index, self._setup.cores
        with self._phases.spend("setup"):
            problem = suite.problem(self.plan.shape, self._seeds.numbers("pair", index, "problem"))
            size = scrubbed_bytes(cores.measuring, suite.calls_per_side)
            scrubber = CacheScrubber(cores.measuring, size)
            self.record.scrubbed_bytes = scrubber.size_bytes
        order = self._seeds.order("pair", index, "calls")
        pace = None
        if suite.trial is None and self._usual is not None:
            pace = Pace(self._seeds.order("pair", index, "pace"), self._usual)
        clocked = Clocked(
            self._sides, self.record, scrubber, self._phases, self._quiet, self._pass_on_logs, pace
        )
        with judge_on(cores.judge):
            with self._phases.spend("import"):
                for name in order.sample(SIDES, 2):
                    loading_ns = self._sides[name].load(problem)
                    self.record.load_ns[name] = loading_ns
                    self._pass_on_logs()
                    rest(whole_slots(loading_ns, LOAD_NS) - loading_ns)
            if suite.trial is None:
                device = self._setup.device
                Turns(clocked, suite, problem, self._seeds, self._phases, device=device).take(order)
            else:
                trial.hold(suite.trial, clocked, problem, self._seeds, order)
        self.record.peak_memory_bytes = {name: side.peak_memory_bytes() for name, side in self._sides.items()}

    @contextmanager
    def _naming_the_tree(self) -> Iterator[None]:
        """A failure names the side by the tree that it ran, not by its place in the pair."""
        try:
            yield
        except SideFailed as failure:
            tree, detail = SEATS[self.plan.tree][failure.side], failure.detail
            if self.plan.tree == "direct" and failure.kind == "wrong_output":
                detail = f"{IN_A_DIRECT_PAIR}: {detail}"
            if (tree, detail) == (failure.side, failure.detail):
                raise
            raise SideFailed(failure.kind, tree, failure.stage, detail) from failure

    def _pass_on_logs(self) -> None:
        """Pass on what the sides have written since the last time; never while a clock runs."""
        for name, side in self._sides.items():
            self._sample_log(f"{SEATS[self.plan.tree][name]}, pair {self.plan.index}", side.take_log())

    def kill(self) -> None:
        """What does not let itself be ended is tried again by `close`."""
        with self._lock:
            self._is_killed = True
            for side in self._sides.values():
                with suppress(Unsteerable):
                    side.kill()

    def close(self) -> None:
        """End both sides, whatever one of them does against it. Raises SideFailed of the first that could not be ended."""
        failure: SideFailed | None = None
        with self._phases.spend("setup"), self._naming_the_tree():
            for side in self._sides.values():
                try:
                    side.close()
                except SideFailed as error:
                    failure = failure or error
            self._pass_on_logs()
            if failure is not None:
                raise failure
