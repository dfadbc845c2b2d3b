"""What a person's earlier confirmations against one base, of other candidates, change about the next bound.

A candidate that could end its confirmation when it goes badly (by a crash, by being slow, by failing a guard rail) and
come back in another form would draw again until it likes the bound. Different patches of one person cannot be told from
forms of one patch, so the next bound is the larger of two, for neither of which a bound is worth giving up:

- the bound at an error of 1 in 100,000: of 30 pairs the 4th smallest, 1 to 3 ranks lower under correlation;
- the usual bound, but at most the lowest one so far, where each earlier confirmation had a bound above zero. So who
  mends what failed a guard rail is paid as before.

`python -m benchmarks.power` prints what is left to be won by it, and what it costs an honest person.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from benchmarks.statistics.confirm import ConfirmationResult, confirmation_bound

LATER_ERROR = Fraction(1, 100_000)


@dataclass(frozen=True, slots=True)
class EarlierConfirmations:
    """How many candidates had one, and their lowest bound in millionths of a nat; None where one had no bound."""

    count: int
    lowest_log_ppm: int | None


@dataclass(frozen=True, slots=True)
class NextBound:
    """The bound that counts. `is_strict` where it is the one at `LATER_ERROR`."""

    result: ConfirmationResult
    is_strict: bool = False


def bound_after(
    usual: ConfirmationResult, log_ratios: Sequence[float], earlier: EarlierConfirmations | None
) -> NextBound:
    """The bound of a confirmation's pairs after earlier ones; `usual` is their bound without them.

    `log_ratios` are ln(base time / candidate time) in nats, in the order measured.
    """
    if earlier is None:
        return NextBound(usual)
    strict = confirmation_bound(log_ratios, LATER_ERROR)
    if earlier.lowest_log_ppm is not None:
        capped = min(usual.bound_log_ppm, earlier.lowest_log_ppm)
        if capped > strict.bound_log_ppm:
            return NextBound(replace(usual, bound_log_ppm=capped))
    return NextBound(strict, is_strict=True)
