"""Budget of loss for a lineage of accepted patches, each of which stays within its margin.

Ten patches that each lose a little less than is allowed lose ten times that. So losses are added up along the lineage,
as a budget: what was accepted counts with its estimate, the new one with its bound. Whole numbers only, millionths of
a nat of the measure (held-out loss); above zero is worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LineageLoss:
    """Loss after the accepted patches, the loss with the new one at its bound, and the budget."""

    spent_ppm: int
    with_new_ppm: int
    budget_ppm: int

    @property
    def is_exceeded(self) -> bool:
        """True if the new patch does not fit any more."""
        return self.with_new_ppm > self.budget_ppm

    @property
    def remaining_ppm(self) -> int:
        """Largest bound that a next patch may have; never below zero."""
        return max(0, self.budget_ppm - self.spent_ppm)


def lineage_loss(accepted_ppm: Sequence[int], new_bound_ppm: int, budget_ppm: int) -> LineageLoss:
    """Add the new loss to those accepted so far, oldest first; a gain in quality has a loss below zero.

    Gains give back what was lost before them, but never more: no one saves up quality for a later patch to spend. So
    the sum is the loss since the best tree of the lineage (the sum of Page's test, Biometrika 41, 1954). Estimates of
    patches without any true loss add up too, by chance, with the root of their number: give the lineage's tip a direct
    comparison with its best tree when the budget runs short, and start again from its result. Raises ValueError for a
    budget below zero.
    """
    if budget_ppm < 0:
        raise ValueError("a budget is not below zero")
    spent = 0
    for loss in accepted_ppm:
        spent = max(0, spent + loss)
    return LineageLoss(spent, max(0, spent + new_bound_ppm), budget_ppm)
