"""One fresh pair: two new sandboxed processes whose calls alternate in random order, one of them frozen at any time.

Nothing is left of a pair when it is over, and nothing of it was there before. Every answer is compared while both sides
are frozen. Knows nothing of other pairs or of verdicts.
"""

import gc
import statistics
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pairs.checks import WrongAnswer, compare_oracle, compare_pair
from benchmarks.pairs.cores import CacheScrubber, judge_on
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.roofline import floor_ns
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import Side, SideFailed, SideSetup
from benchmarks.suites.base import Problem, Tensors

SIDES = ("base", "candidate")
SLOTS = {"base": 0, "candidate": 1}
ECHOES = 3


@dataclass
class PairRecord:
    """What was measured. `calls` are (side, nanoseconds) in the order they were made, one of each side by turns."""

    plan: PairPlan
    spawn_order: tuple[str, str]
    calls: list[tuple[str, int]] = field(default_factory=list)
    cpu_while_frozen_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    transport_ns: int = 0
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    outputs_checked: int = 0
    oracle_checked: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the evidence."""
        return {
            "index": self.plan.index,
            "control": self.plan.is_control,
            "case": self.plan.case,
            "shape": dict(self.plan.shape),
            "spawn_order": list(self.spawn_order),
            "calls": [[side, elapsed] for side, elapsed in self.calls],
            "cpu_while_frozen_ns": dict(self.cpu_while_frozen_ns),
            "transport_ns": self.transport_ns,
            "peak_memory_bytes": dict(self.peak_memory_bytes),
        }


class Pair:
    """Prepare (no clock runs), measure, close. `kill` may come from any thread and ends it at once."""

    def __init__(
        self,
        plan: PairPlan,
        trees: Mapping[str, Path],
        setup: SideSetup,
        seeds: Seeds,
        phases: Phases,
        quiet: Quiet,
    ) -> None:
        self.plan = plan
        self._setup, self._seeds, self._phases, self._quiet = setup, seeds, phases, quiet
        self._trees = {"base": trees["base"], "candidate": trees["base" if plan.is_control else "candidate"]}
        first = seeds.order("pair", plan.index, "spawn").sample(SIDES, 2)
        self.record = PairRecord(plan, spawn_order=(first[0], first[1]))
        self._sides: dict[str, Side] = {}
        self._lock = threading.Lock()
        self._is_killed = False

    def prepare(self) -> None:
        """Start both sides at once, in random order, and wait until both have imported torch and stand frozen."""
        with self._phases.spend("setup"):
            for name in self.record.spawn_order:
                side = Side(name, self._trees[name], self._setup, SLOTS[name])
                with self._lock:
                    self._sides[name] = side
                    if self._is_killed:
                        side.kill()
        with self._phases.spend("import"):
            for name in self.record.spawn_order:
                self._sides[name].await_ready()

    def measure(self) -> None:
        """Fill `record`. Raises SideFailed where a sample did not answer, or answered wrongly (kind wrong_output)."""
        suite, index, cores = self._setup.suite, self.plan.index, self._setup.cores
        with self._phases.spend("setup"):
            problem = suite.problem(self.plan.shape, self._seeds.numbers("pair", index, "problem"))
            scrubber = CacheScrubber(cores.measuring)
        order = self._seeds.order("pair", index, "calls")
        with judge_on(cores.judge):
            with self._phases.spend("import"):
                for name in order.sample(SIDES, 2):
                    self._sides[name].load(problem)
            with_oracle = set(order.sample(range(suite.calls_per_side), suite.oracle_checks))
            self._turn(problem, scrubber, order.sample(SIDES, 2), "warm-up", is_timed=False, with_oracle=True)
            self._echo(problem)
            for number in range(suite.calls_per_side):
                self._turn(
                    problem,
                    scrubber,
                    order.sample(SIDES, 2),
                    number,
                    is_timed=True,
                    with_oracle=number in with_oracle,
                )
        self.record.peak_memory_bytes = {name: side.peak_memory_bytes() for name, side in self._sides.items()}
        self._refuse_impossible(problem)

    def _refuse_impossible(self, problem: Problem) -> None:
        floor = floor_ns(problem.floor_flops)
        for name in SIDES:
            middle = statistics.median_low([elapsed for side, elapsed in self.record.calls if side == name])
            if middle < floor:
                detail = (
                    f"half of its calls took less than {middle} ns; no core can do this work in {floor} ns"
                )
                raise SideFailed("suspicious", name, "call", detail)

    def _turn(
        self,
        problem: Problem,
        scrubber: CacheScrubber,
        names: list[str],
        number: int | str,
        *,
        is_timed: bool,
        with_oracle: bool,
    ) -> None:
        """One call of each side with the same fresh input, then the comparison."""
        with self._phases.spend("checking"):
            inputs = problem.draw_inputs(self._seeds.numbers("pair", self.plan.index, "inputs", number))
        answers = {}
        with self._phases.spend("measuring"):
            gc.disable()
            try:
                for name in names:
                    side = self._sides[name]
                    scrubber.scrub()
                    self._account_frozen()
                    with self._quiet.measuring():
                        answers[name], elapsed_ns = side.call(inputs, problem.output)
                    if is_timed:
                        self.record.calls.append((name, elapsed_ns))
            finally:
                gc.enable()
        with self._phases.spend("checking"):
            self._check(answers, problem, inputs, with_oracle=with_oracle)

    def _account_frozen(self) -> None:
        for name, side in self._sides.items():
            self.record.cpu_while_frozen_ns[name] += side.take_cpu_while_frozen_ns()

    def _check(
        self, answers: dict[str, Any], problem: Problem, inputs: Tensors, *, with_oracle: bool
    ) -> None:
        tolerance = self._setup.suite.tolerance
        wrong: WrongAnswer | None = compare_pair(
            answers["base"], answers["candidate"], problem, inputs, tolerance
        )
        self.record.outputs_checked += 1
        if wrong is None and with_oracle:
            wrong = compare_oracle(answers["base"], answers["candidate"], problem, inputs, tolerance)
            self.record.oracle_checked += 1
        if wrong is not None:
            raise SideFailed("wrong_output", wrong.side, "call", wrong.detail)

    def _echo(self, problem: Problem) -> None:
        """How much of a call is transport, on base's side. Printed beside the figures, never subtracted."""
        inputs = problem.draw_inputs(self._seeds.numbers("pair", self.plan.index, "echo"))
        with self._phases.spend("measuring"):
            self.record.transport_ns = min(self._sides["base"].echo(inputs) for _ in range(ECHOES))

    def logs(self) -> dict[str, str]:
        """What each side wrote, bounded."""
        return {name: side.log() for name, side in self._sides.items()}

    def kill(self) -> None:
        with self._lock:
            self._is_killed = True
            for side in self._sides.values():
                side.kill()

    def close(self) -> None:
        with self._phases.spend("setup"):
            for side in self._sides.values():
                side.close()
