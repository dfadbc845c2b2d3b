"""Sign counts as a random walk with looks: which counts decide, and what error that spends. Exact, in fractions.

A pair is above a mark with probability 1/2 where the mark is the true median, whatever the noise looks like; only
independence of the pairs is assumed. Spending a total error over looks is Lan & DeMets, "Discrete sequential
boundaries for clinical trials", Biometrika 70 (1983); here the walk is small enough to be enumerated. Because whatever
a look cannot spend stays unspent and early ends without a decision are not counted, a run may continue after such an end
without raising the error.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

HALF = Fraction(1, 2)


def spending_boundaries(errors: Mapping[int, Fraction]) -> dict[int, int]:
    """Boundaries of each look (a number of pairs, ascending): the least count above the mark that decides.

    It is the smallest count whose probability of being reached at that look, and at none before, is at most that
    look's share in `errors`, when the mark is the median. A count of look + 1 cannot be reached.
    """
    walk, taken = {0: Fraction(1)}, 0
    needed: dict[int, int] = {}
    for look, error in errors.items():
        after = _after(walk, look - taken, HALF)
        count, spent = look + 1, Fraction(0)
        while spent + after.get(count - 1, Fraction(0)) <= error:
            count -= 1
            spent += after.get(count, Fraction(0))
        needed[look] = count
        walk, taken = {above: p for above, p in after.items() if above < count}, look
    return needed


def reached_at(needed: Mapping[int, int], above: Fraction = HALF) -> dict[int, Fraction]:
    """Probabilities of each look: P(its boundary is reached there and none before), each pair above the mark with `above`."""
    walk, taken = {0: Fraction(1)}, 0
    found: dict[int, Fraction] = {}
    for look, count in needed.items():
        after = _after(walk, look - taken, above)
        found[look] = sum((p for at, p in after.items() if at >= count), Fraction(0))
        walk, taken = {at: p for at, p in after.items() if at < count}, look
    return found


def _after(walk: Mapping[int, Fraction], steps: int, above: Fraction) -> dict[int, Fraction]:
    """The walk's counts after so many more pairs."""
    step = [math.comb(steps, k) * above**k * (1 - above) ** (steps - k) for k in range(steps + 1)]
    after: dict[int, Fraction] = {}
    for at, probability in walk.items():
        for k, weight in enumerate(step):
            after[at + k] = after.get(at + k, Fraction(0)) + probability * weight
    return after
