"""Whether a discount is backed by a measured cost, or a subsidy.

Surcharges need no backing here. A discount is backed if the tokens that get it cost the provider as much less, and a
command of this project measured that.
"""

from __future__ import annotations

from dataclasses import dataclass

from gainshare.ledger.pricing import MILLION, PriceTable, hour_factors

HIT_OVER_MISS = 0.07
HIT_OVER_MISS_SOURCE = (
    "time to first token on a prefix hit over a miss is 0.03 to 0.07: `python -m benchmarks.peers serve`, "
    "docs/lab/performance.md"
)


@dataclass(frozen=True, slots=True)
class Discount:
    """``size`` is the largest share of a price that it takes off; ``backed`` how much of that is a measured saving."""

    part: str
    size: float
    backed: float
    reason: str

    @property
    def is_subsidy(self) -> bool:
        return self.backed < self.size

    @property
    def unbacked(self) -> float:
        """Share of the discount that is a subsidy, from 0 to 1."""
        return max(0.0, 1 - self.backed / self.size)

    @property
    def says(self) -> str:
        if not self.is_subsidy:
            return f"backed by a measured cost: {self.reason}"
        if self.backed == 0:
            return f"a subsidy: {self.reason}"
        return f"a subsidy above {self.backed:.0%}, backed up to there: {self.reason}"


def discounts(book: PriceTable) -> list[Discount]:
    """The discounts of a book against its own list prices, those of no size left out."""
    found = [_cache(book), _off_peak(book)]
    return [discount for discount in found if discount.size > 0]


def _cache(book: PriceTable) -> Discount:
    size = 1 - book.cached_input / book.fresh_input if book.fresh_input else 0.0
    return Discount("cache", max(0.0, size), 1 - HIT_OVER_MISS, HIT_OVER_MISS_SOURCE)


def _off_peak(book: PriceTable) -> Discount:
    size = 1 - min(hour_factors(book)) / MILLION
    reason = "no command measures that a token costs less in these hours"
    return Discount("off-peak", size, 0.0, reason)
