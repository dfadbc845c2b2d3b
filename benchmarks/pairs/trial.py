"""Measures a pair by a trial: the suite decides which side is called how often, and gives one value of each in the end.

The calls themselves are made like all others, and whatever a side answers must be finite numbers.
"""

import random

import numpy as np

from benchmarks.pairs.checks import not_finite
from benchmarks.pairs.clocked import Clocked
from benchmarks.pairs.seats import SIDES
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed
from benchmarks.suites.base import Exchange, Problem, Tensors, TensorSpec, Trial

MOST_VALUE = 2**62  # what evidence can hold, in the suite's unit


class PairTrial:
    """The sides of one pair as a trial sees them: `benchmarks.suites.base.TrialSides`."""

    def __init__(self, clocked: Clocked, seeds: Seeds, order: random.Random) -> None:
        self._clocked, self._seeds = clocked, seeds
        first, second = order.sample(SIDES, 2)
        self._names = (first, second)

    @property
    def names(self) -> tuple[str, str]:
        return self._names

    def call(
        self, name: str, inputs: Tensors, outputs: tuple[TensorSpec, ...], *, is_timed: bool = True
    ) -> tuple[Tensors, int]:
        answers, elapsed_ns = self._clocked.call(name, (Exchange(inputs, outputs),), is_timed=is_timed)
        for answer in answers.values():
            if detail := not_finite(answer):
                raise SideFailed("wrong_output", name, "call", detail)
        return answers, elapsed_ns

    def peak_memory_bytes(self, name: str) -> int:
        return self._clocked.sides[name].peak_memory_bytes()

    def numbers(self, *label: str | int) -> np.random.Generator:
        return self._seeds.numbers("pair", self._clocked.record.plan.index, "trial", *label)

    def checked(self, *, with_oracle: bool) -> None:
        self._clocked.record.outputs_checked += 1
        self._clocked.record.oracle_checked += with_oracle

    def fail(self, kind: str, name: str, detail: str) -> SideFailed:
        return SideFailed(kind, name, "call", detail)


def hold(trial: Trial, clocked: Clocked, problem: Problem, seeds: Seeds, order: random.Random) -> None:
    """Run the trial and put its values on the pair's record. Raises SideFailed."""
    sides = PairTrial(clocked, seeds, order)
    values = trial.run(problem, sides, order)
    for name in sides.names:
        if not 0 < values[name] <= MOST_VALUE:
            raise SideFailed(
                "wrong_output", name, "call", f"its value is {_size(values[name])}, which is none"
            )
    clocked.record.calls = [(name, values[name]) for name in sides.names]


def _size(value: int) -> str:
    """A value for people, whatever its number of digits."""
    return (
        str(value)
        if abs(value) <= MOST_VALUE
        else f"{'-' if value < 0 else ''}2^{value.bit_length() - 1} or more"
    )
