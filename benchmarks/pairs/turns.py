"""Measures a pair by timed calls: both sides answer the same fresh inputs by turns, in a random order within each turn.

Every answer is compared while both sides are frozen.
"""

import random
import statistics

import numpy as np

from benchmarks.pairs.checks import WrongAnswer, are_equal, compare_oracle, compare_pair
from benchmarks.pairs.clocked import Clocked
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.roofline import floor_ns
from benchmarks.pairs.seats import SIDES
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites.base import WARM_UP, Problem, Suite, Tensors

ECHOES = 3


class Turns:
    """All turns of one pair; `take` fills the pair's record."""

    def __init__(
        self, clocked: Clocked, suite: Suite, problem: Problem, seeds: Seeds, phases: Phases, *, device: str
    ) -> None:
        self._clocked, self._suite, self._problem = clocked, suite, problem
        self._seeds, self._phases, self._device = seeds, phases, device
        self._index = clocked.record.plan.index

    def take(self, order: random.Random) -> None:
        """The warm-up, if the suite has one, then as many timed turns as the suite says. Raises SideFailed."""
        with_oracle = {WARM_UP, *order.sample(range(self._suite.calls_per_side), self._suite.oracle_checks)}
        first = WARM_UP if self._suite.has_warm_up else 0
        for turn in range(first, self._suite.calls_per_side):
            self._turn(turn, order.sample(SIDES, 2), with_oracle=turn in with_oracle)
            if turn == first:
                self._echo(order.sample(SIDES, 2))
        self._refuse_impossible()

    def _turn(self, turn: int, names: list[str], *, with_oracle: bool) -> None:
        """One call of each side with the same fresh inputs, then the comparison."""
        with self._phases.spend("checking"):
            before = self._problem.before(self._rng("before", turn), turn)
        if before is not None:
            self._ask(turn, before, names, is_timed=False, with_oracle=with_oracle)
        with self._phases.spend("checking"):
            self._inputs = self._problem.draw_inputs(self._rng("inputs", turn), turn)
        self._ask(turn, self._inputs, names, is_timed=turn != WARM_UP, with_oracle=with_oracle)

    def _ask(
        self, turn: int, inputs: Tensors, names: list[str], *, is_timed: bool, with_oracle: bool
    ) -> None:
        exchanges = self._problem.exchanges(inputs)
        answers: dict[str, Tensors] = {}
        for name in names:
            answers[name], elapsed_ns = self._clocked.call(name, exchanges, is_timed=is_timed)
            if is_timed:
                self._clocked.record.calls.append((name, elapsed_ns))
        with self._phases.spend("checking"):
            self._check(answers, inputs, turn, with_oracle=with_oracle)

    def _check(self, answers: dict[str, Tensors], inputs: Tensors, turn: int, *, with_oracle: bool) -> None:
        record = self._clocked.record
        wrong: WrongAnswer | None = compare_pair(
            answers["base"], answers["candidate"], self._problem, inputs, turn, self._suite.tolerance_of
        )
        record.outputs_checked += 1
        record.outputs_differing += not are_equal(answers["base"], answers["candidate"])
        if wrong is None and with_oracle:
            wrong = compare_oracle(
                answers["base"], answers["candidate"], self._problem, inputs, turn, self._suite.tolerance_of
            )
            record.oracle_checked += 1
        if wrong is not None:
            raise SideFailed("wrong_output", wrong.side, "call", wrong.detail)

    def _echo(self, names: list[str]) -> None:
        """Share of a call that is transport, in base's seat. Printed with the figures, never subtracted.

        Both sides are sent the same frames: neither learns from them which one it is.
        """
        with self._phases.spend("measuring"):
            fastest = {
                name: sum(
                    min(self._clocked.sides[name].echo(exchange.inputs) for _ in range(ECHOES))
                    for exchange in self._problem.exchanges(self._inputs)
                )
                for name in names
            }
        self._clocked.record.transport_ns = fastest["base"]

    def _refuse_impossible(self) -> None:
        floor = floor_ns(self._problem.floor_flops, self._device)
        for name in SIDES:
            middle = statistics.median_low(
                [elapsed for side, elapsed in self._clocked.record.calls if side == name]
            )
            if middle < floor:
                detail = (
                    f"half of its calls took less than {middle} ns; no device can do this work in {floor} ns"
                )
                raise SideFailed("suspicious", name, "call", detail)

    def _rng(self, label: str, turn: int) -> np.random.Generator:
        return self._seeds.numbers("pair", self._index, label, turn)
