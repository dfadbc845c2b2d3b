"""Order of a run's pairs: cases by turns, and base/base control pairs at secret places.

Pure: everything follows from the run's seeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.catalogue import Case
from benchmarks.pairs.seeds import Seeds
from benchmarks.suites.base import Suite

BLOCK = 6  # candidate pairs between two looks at the least; each block holds one control pair


@dataclass(frozen=True)
class PairPlan:
    """Plan of one pair. `tree` runs on the candidate's side: in a control pair both sides run base's tree.

    A control pair is `beside` the measured pair of this index, with which it shares case and shape.
    """

    index: int
    case: str
    shape: dict[str, int]
    tree: str = "candidate"
    beside: int | None = None

    @property
    def is_control(self) -> bool:
        return self.tree == "base"


def schedule(suite: Suite, seeds: Seeds, *, has_controls: bool = True) -> Iterator[PairPlan]:
    """Endless. Where there are control pairs, each block of `BLOCK` candidate pairs has one control pair before one of them, with its shape."""
    index = 0
    cases = _cases(suite, seeds)
    block = 0
    while True:
        control_before = seeds.order("block", block, "control").randrange(BLOCK)
        for place in range(BLOCK):
            case = next(cases)
            shape = case.draw(seeds.numbers("block", block, "shape", place))
            if has_controls and place == control_before:
                yield PairPlan(index, case.name, shape, "base", beside=index + 1)
                index += 1
            yield PairPlan(index, case.name, shape)
            index += 1
        block += 1


def _cases(suite: Suite, seeds: Seeds) -> Iterator[Case]:
    """Yield every case once per round, in an order drawn again for each round."""
    number = 0
    while True:
        yield from seeds.order("round", number, "cases").sample(suite.cases, len(suite.cases))
        number += 1
