"""Order of a run's pairs: blocks of measured pairs, cases by turns, with pairs of the other kinds at secret places.

Pure: everything follows from the run's seeds and from what each block is asked for.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.catalogue import Case
from benchmarks.pairs.seeds import Seeds
from benchmarks.statistics.controls import BLOCK
from benchmarks.suites.base import Suite

MOST_DRAWN = 1_000  # cases that are drawn for a block, those that have enough included


@dataclass(frozen=True)
class PairPlan:
    """Plan of one pair. `tree` is its kind: `seats` says which tree runs in which seat.

    A control pair is `next_to` the measured pair of this index, with which it shares case and shape.
    """

    index: int
    case: str
    shape: dict[str, int]
    tree: str = "candidate"
    next_to: int | None = None

    @property
    def is_control(self) -> bool:
        return self.tree == "base"


class Schedule:
    """The blocks of one run, one after the other."""

    def __init__(self, suite: Suite, seeds: Seeds) -> None:
        self._suite, self._seeds = suite, seeds
        self._cases = _cases(suite, seeds)
        self._index = self._block = 0
        self._alone: list[PairPlan] = []  # measured pairs without a control pair, oldest first

    def block(
        self, short: Mapping[str, int], *, controls: int = 0, old: int = 0, direct: int = 0
    ) -> list[PairPlan]:
        """At most `BLOCK` measured pairs of the cases that are `short` of so many, and pairs of the other kinds.

        Of the measured pairs `controls` have a control pair immediately before or after them. Where none is measured, the
        control pairs are paired with the latest ones that have none. Old pairs and direct pairs are between the others, the
        cases of each kind by turns.
        """
        order = self._seeds.order("block", self._block, "order")
        measured = self._measured(short)
        chosen = set(order.sample(range(len(measured)), min(controls, len(measured))))
        items: list[list[tuple[str, Case, dict[str, int]]]] = []
        for place, (case, shape) in enumerate(measured):
            one = ("candidate", case, shape)
            twin = [("base", case, shape), one]
            items.append(order.sample(twin, 2) if place in chosen else [one])
        for kind, count in (("old", old), ("direct", direct)):
            for number in range(count):
                case = self._suite.cases[(self._block + number) % len(self._suite.cases)]
                shape = case.draw(self._seeds.numbers("block", self._block, kind, number))
                items.insert(order.randint(0, len(items)), [(kind, case, shape)])
        self._block += 1
        plans = [plan for item in items for plan in self._numbered(item)]
        return plans if measured else [*self._late_controls(controls), *plans]

    def _measured(self, short: Mapping[str, int]) -> list[tuple[Case, dict[str, int]]]:
        left = Counter(short)
        drawn: list[Case] = []
        for _ in range(MOST_DRAWN):
            if len(drawn) == BLOCK or left.total() <= 0:
                break
            case = next(self._cases)
            if left[case.name] > 0:
                left[case.name] -= 1
                drawn.append(case)
        return [
            (case, case.draw(self._seeds.numbers("block", self._block, "shape", place)))
            for place, case in enumerate(drawn)
        ]

    def _numbered(self, item: list[tuple[str, Case, dict[str, int]]]) -> Iterator[PairPlan]:
        """Plans of one measured pair with or without its control pair, or of one pair of another kind."""
        first = self._index
        candidate = next(
            (first + place for place, (tree, _, _) in enumerate(item) if tree == "candidate"), None
        )
        for tree, case, shape in item:
            plan = PairPlan(self._index, case.name, shape, tree, candidate if tree == "base" else None)
            self._index += 1
            if item == [(tree, case, shape)] and tree == "candidate":
                self._alone.append(plan)
            yield plan

    def _late_controls(self, controls: int) -> Iterator[PairPlan]:
        for _ in range(min(controls, len(self._alone))):
            pair = self._alone.pop()
            yield PairPlan(self._index, pair.case, pair.shape, "base", pair.index)
            self._index += 1


def _cases(suite: Suite, seeds: Seeds) -> Iterator[Case]:
    """Yield every case once per round, in an order drawn again for each round."""
    number = 0
    while True:
        yield from seeds.order("round", number, "cases").sample(suite.cases, len(suite.cases))
        number += 1
