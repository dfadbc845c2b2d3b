"""How long a side stays frozen while the other one is called: not as long as the other one takes.

A side can read a clock before and after it was frozen. So each call of a pair fills a whole number of slots, and the next
one begins only then. A slot is longer than base's usual call by a secret factor, drawn for each pair: what a side learns is
in how many slots the other one has answered, and neither how fast it was nor, from the slot's own length, whether it has
base's speed itself (to a factor of MOST / LEAST). Calls that are not timed fill slots of a
fixed length. Pairs without a calibration (guard runs, which set no price) and trials, whose two sides get different calls,
are not paced.

A partner that wants to be noticed can always take more than one slot. Against that stand the control pairs.

Costs: (LEAST + MOST) / 2 - 1 of base's time for calls, and of a candidate that is faster what it saves; half of LOAD_NS
for each load.
"""

import math
import time
from random import Random

LEAST, MOST = 1.1, 1.5  # times base's usual call
UNKNOWN_NS = 50_000_000
LOAD_NS = 100_000_000


class Pace:
    """The slots of one pair. `usual_ns` is what a timed call of base takes as a rule, where a calibration has told."""

    def __init__(self, order: Random, usual_ns: int | None = None) -> None:
        self._factor = LEAST * (MOST / LEAST) ** order.random()
        self._slot_ns = None if usual_ns is None else self._slot(usual_ns)

    def _slot(self, usual_ns: int) -> int:
        return max(1, int(self._factor * usual_ns))

    def filled_ns(self, elapsed_ns: int, *, is_timed: bool) -> int:
        """Length of the slots that a call of this length fills."""
        slot_ns = self._slot_ns if is_timed and self._slot_ns is not None else UNKNOWN_NS
        return whole_slots(elapsed_ns, slot_ns)

    def learn(self, name: str, elapsed_ns: int) -> None:
        """Take the first timed call of base for its usual one, where no calibration has told."""
        if self._slot_ns is None and name == "base":
            self._slot_ns = self._slot(elapsed_ns)


def whole_slots(elapsed_ns: int, slot_ns: int) -> int:
    """The least multiple of `slot_ns` that is not less than `elapsed_ns`; at least one slot."""
    return max(1, math.ceil(elapsed_ns / slot_ns)) * slot_ns


def rest(left_ns: int) -> None:
    """Sleep for so long, with both sides frozen."""
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
