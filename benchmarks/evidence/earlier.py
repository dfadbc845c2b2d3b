"""The person's earlier confirmations against the same base, as a confirmation's document states them. Pure.

The platform knows whose patch it is and counts; the document states the count, so that its bound can be recomputed.
"""

from typing import Any

from benchmarks.statistics.earlier import EarlierConfirmations, NextBound

KEY = "earlier_confirmations"


def stated(document: dict[str, Any]) -> EarlierConfirmations | None:
    """What the document states; None where there were none, and in documents that were signed before this was counted."""
    found = document.get(KEY)
    return None if found is None else EarlierConfirmations(found["count"], found["lowest_log_ppm"])


def confidence(bound: NextBound) -> str:
    """The bound's nominal confidence, for people."""
    return "99.999 %" if bound.is_strict else "95 %"


def said(document: dict[str, Any], bound: NextBound) -> str:
    """A sentence about why the bound is lower than of a first confirmation, or nothing."""
    earlier = stated(document)
    if earlier is None:
        return ""
    others = (
        "Another patch" if earlier.count == 1 else f"{earlier.count} other patches"
    ) + " of the same person had a confirmation against this base before"
    so = "the bound is at 99.999 %" if bound.is_strict else "the bound is at most the lowest of theirs"
    return f" {others}, so {so}."
