"""What the old pairs of a confirmation say about base: whether it still has what was paid for it. Pure."""

from typing import Any

from benchmarks.evidence.samples import PPB_PER_PPM, Samples, combined
from benchmarks.statistics.old import OldDecision, OldOutcome, old_decision
from benchmarks.statistics.units import signed_percent


def decision(document: dict[str, Any], samples: Samples) -> OldDecision | None:
    """The decision of the old pairs so far; None where there is no old tree, or it could not be measured."""
    old = document.get("old")
    if old is None or failure(document) is not None:
        return None
    opposite = {case: tuple(-value for value in values) for case, values in samples.old.items()}
    gains = combined(opposite)  # the document has ln(base / old)
    return old_decision(gains, old["paid_log_ppm"] * PPB_PER_PPM)


def failure(document: dict[str, Any]) -> str | None:
    """What the old tree did wrong, so that it could not be measured; it is no one's fault in this run."""
    for event in document["events"]:
        if event.get("side") == "old":
            return f"{event['kind']}: {event['detail'].strip() or 'no detail'}"
    return None


def wanted_pairs(document: dict[str, Any], samples: Samples, blocks_left: int) -> int:
    """Old pairs in the next block, so that they are spread over the `blocks_left` blocks of measured pairs."""
    found = decision(document, samples)
    if found is None or found.outcome is not OldOutcome.MEASURE_ON:
        return 0
    return spread(samples.old, found.pairs_wanted, blocks_left)


def spread(by_case: dict[str, tuple[int, ...]], wanted: int, blocks_left: int) -> int:
    """Pairs in the next block, so that each case has `wanted` of them after `blocks_left` blocks, or after one if it is 0."""
    missing = sum(max(0, wanted - len(values)) for values in by_case.values())
    return -(-missing // max(1, blocks_left))


def price_log_ppm(found: OldDecision, bound_log_ppm: int) -> int:
    """The candidate's bound against the old tree: its bound against base, and base's lower bound against the old tree."""
    assert found.lower_ppb is not None
    return bound_log_ppm + found.lower_ppb // PPB_PER_PPM


def doubt(document: dict[str, Any], found: OldDecision, price: int) -> str:
    """The reason of the suspicion that base is slow."""
    assert found.upper_ppb is not None
    return (
        "Base has lost what was paid for it: its gain over the tree before it is at most "
        f"{signed_percent(-(-found.upper_ppb // PPB_PER_PPM))} ({found.pairs} pairs), less than half of the "
        f"{signed_percent(document['old']['paid_log_ppm'])} that was paid. The patch's gain over that tree is at least "
        f"{signed_percent(price)}. Merges stop until a maintainer decides."
    )


def said(document: dict[str, Any]) -> str:
    """A sentence about an old tree that could not be measured, or nothing."""
    what = failure(document)
    return "" if what is None else f" The tree before base could not be paired with it ({what})."
