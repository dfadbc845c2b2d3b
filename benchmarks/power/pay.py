"""Expected pay of a way to play, and rows that compare it with honest play's."""

import math
from dataclasses import dataclass

from benchmarks.power.batch import Values
from benchmarks.report import Row

ERRORS = 3.0  # with so many rows, what is called a miss is so many standard errors above 1


@dataclass(frozen=True, slots=True)
class Pay:
    """Expected pay of a way to play, in nats, and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, paid: Values, times: float = 1.0) -> "Pay":
        return cls(times * float(paid.mean()), times * float(paid.std()) / math.sqrt(len(paid)))

    def over(self, honest: "Pay") -> "Pay":
        """The ratio, its error by the first-order rule."""
        ratio = self.mean / honest.mean
        return Pay(ratio, math.hypot(self.error, ratio * honest.error) / honest.mean)


def trick_row(name: str, ratio: Pay, runs: int, pay: Pay | None = None, full: float | None = None) -> Row:
    """`pay` and `full` add what that is of the gain's whole worth, in words."""
    share = "" if pay is None or full is None else f"; {pay.mean / full:.0%} of the gain's whole award"
    how = (
        f"expected pay over honest play's, 3 errors +-{ERRORS * ratio.error:.2g}; {runs} contributors{share}"
    )
    return Row(f"trick: {name}", ratio.mean, "", "<= 1", ratio.mean - ERRORS * ratio.error <= 1.0, how)


def cost_row(name: str, ratio: Pay, runs: int, over: str) -> Row:
    """What a rule costs honest people: printed, with no target."""
    how = f"expected pay over {over}, 3 errors +-{ERRORS * ratio.error:.2g}; {runs} contributors"
    return Row(f"cost: {name}", ratio.mean, "", None, None, how)
