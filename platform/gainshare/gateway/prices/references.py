"""The reference that a price version rests on, and the saving that a gain has its part of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from benchmarks.sharing.references import Reference
from benchmarks.sharing.savings import Placed, Saving
from gainshare.ledger.models import PriceVersion


def reference_levels(price: PriceVersion, history: Sequence[Placed]) -> Reference:
    """The last version set by hand that this one was derived from, or is."""
    since = price.derivation.get("since")
    return Reference.at(datetime.fromisoformat(since) if since else price.effective_at, history)


def saving_of(history: Sequence[Placed], deployment: str, line: str) -> Saving:
    """What a deployment saves on a line where a gain was credited. Raises LookupError where it saves nothing."""
    own = next((each for each in history if each.served.id == deployment), None)
    if own is None or line not in own.savings:
        raise LookupError(f"the deployment {deployment} has a royalty on {line} and saves nothing there")
    return own.savings[line]
