"""How long a side stays frozen while the other one is called: not as long as the other one takes.

A side can read a clock before and after it was frozen. So each call of a pair fills a whole number of slots, and the next
one begins only then. A slot is longer than a usual call by a secret factor, drawn for each pair: what a side learns is in
how many slots the other one has answered, and neither how fast it was nor, from the slot's own length, whether it has
base's speed itself (to a factor of MOST / LEAST).

The usual call is base's. In a run that also times an old tree, it is the old tree's: base would otherwise know the pairs
in which it is compared with that tree, because a slower partner takes more slots. A confirmation gives it ROOM in
addition, so that a larger shape or a slow moment does not take a second slot. `calibration` measures both.

The first call of a side, which is not timed, has a slot of its own for the same reason. Other calls that are not timed
fill slots of a fixed length. Guard runs, which set no price, presets that earn no awards, and trials, whose two sides get
different calls, are not paced.

A partner that wants to be noticed can always take more than one slot: docs/known-gaps.md says what that allows.

Costs: (LEAST + MOST) / 2 - 1 of the usual call's time for each call, and of a side that is faster what it saves; half of
LOAD_NS for each load.
"""

import math
import time
from dataclasses import dataclass
from fractions import Fraction
from random import Random

LEAST, MOST = 1.1, 1.5  # times the usual call
ROOM = Fraction(5, 4)  # in confirmations; a shape of the family has up to 1.27 times the work of another one
UNKNOWN_NS = 50_000_000
LOAD_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class Usual:
    """What calls take as a rule in one case: a timed one, and the first one of a process, which is not timed."""

    call_ns: int
    first_ns: int

    def times(self, room: Fraction) -> "Usual":
        """Each longer by this factor."""
        return Usual(math.ceil(self.call_ns * room), math.ceil(self.first_ns * room))


class Pace:
    """The slots of one pair, from what calls take as a rule."""

    def __init__(self, order: Random, usual: Usual) -> None:
        factor = LEAST * (MOST / LEAST) ** order.random()
        self._timed_ns = max(1, int(factor * usual.call_ns))
        self._first_ns = max(UNKNOWN_NS, int(factor * usual.first_ns))

    def filled_ns(self, elapsed_ns: int, *, is_timed: bool, is_first: bool = False) -> int:
        """Length of the slots that a call of this length fills. `is_first` is for the first call of a side."""
        if is_timed:
            return whole_slots(elapsed_ns, self._timed_ns)
        return whole_slots(elapsed_ns, self._first_ns if is_first else UNKNOWN_NS)


def whole_slots(elapsed_ns: int, slot_ns: int) -> int:
    """The least multiple of `slot_ns` that is not less than `elapsed_ns`; at least one slot."""
    return max(1, math.ceil(elapsed_ns / slot_ns)) * slot_ns


def rest(left_ns: int) -> None:
    """Sleep for so long, with both sides frozen."""
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
