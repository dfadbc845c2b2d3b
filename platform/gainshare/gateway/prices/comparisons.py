"""What a request would have cost before the gains, and whose gains made the difference.

The same counts are billed by the same function under the reference prices that its price version was derived from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.canary.order import DECODE, MEMORY, PREFILL
from gainshare.gateway.models import UsageRecord
from gainshare.gateway.services import price_bill, recorded
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import table_of
from gainshare.ledger.pricing import PriceTable

LINE_OF_ITEM = {
    "fresh_input": PREFILL,
    "long_fresh_input": PREFILL,
    "output": DECODE,
    "long_output": DECODE,
    "memory": MEMORY,
}
"""The line of a canary that moves each item of a bill. Cached input costs no device time, and no gain moves it."""


@dataclass(frozen=True, slots=True)
class GainOfPrice:
    """One gain that a price was lowered by: its parts of the reference price by line, in millionths."""

    gain: str
    person: str
    submission: str
    lines: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A bill, and what the same tokens would have cost before, in micro-credits, and the gains between them."""

    before_microcredits: int
    billed_microcredits: int
    gains: tuple[GainOfPrice, ...]

    @property
    def saved_microcredits(self) -> int:
        return self.before_microcredits - self.billed_microcredits


def reference_of(price: PriceVersion) -> PriceTable:
    """The prices before all gains; the version's own if it was set by hand."""
    reference = price.derivation.get("reference")
    return table_of(PriceTable(**reference)) if reference else table_of(price)


def gains_of(price: PriceVersion) -> tuple[GainOfPrice, ...]:
    """The gains that lowered this version, in the order of their booking."""
    return tuple(_gain(row) for row in price.derivation.get("gains", []))


def _gain(row: Mapping[str, Any]) -> GainOfPrice:
    return GainOfPrice(row["gain"], row["person"], row["submission"], dict(row["lines"]))


def before_by_line(record: UsageRecord) -> dict[str, int]:
    """Micro-credits of the request under its reference prices, by the canary's lines."""
    amounts: dict[str, int] = defaultdict(int)
    for line in price_bill(recorded(record), reference_of(record.price)).lines:
        if line.item in LINE_OF_ITEM:
            amounts[LINE_OF_ITEM[line.item]] += line.amount
    return dict(amounts)


def comparison_of(record: UsageRecord) -> Comparison:
    """The bill compared with that before the gains. Without gains, and while the request runs, they are the same."""
    if not record.price.derivation or record.finished_at is None:
        return Comparison(record.billed_microcredits, record.billed_microcredits, ())
    before = price_bill(recorded(record), reference_of(record.price)).total
    return Comparison(before, record.billed_microcredits, gains_of(record.price))
