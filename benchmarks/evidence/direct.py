"""What the direct pairs of a confirmation say about base: whether it was slower next to the patch than elsewhere. Pure.

A base that is slow only next to a patch that gives it a sign is fast in control pairs and old pairs. A direct pair has the
old tree and the candidate, without base. The candidate's gain over the old tree less what it claims over base is what base
was worth next to it. The same rule as for old pairs decides whether that is half of what was paid.
"""

from typing import Any

from benchmarks.evidence.old import failure, spread
from benchmarks.evidence.samples import PPB_PER_PPM, Samples, combined
from benchmarks.statistics.old import FIRST_PAIRS, OldDecision, OldOutcome, old_decision
from benchmarks.statistics.units import signed_percent


def has_rules(document: dict[str, Any]) -> bool:
    """True if the run takes direct pairs; documents that were signed before there were any do not say so."""
    return bool((document.get("old") or {}).get("direct"))


def decision(document: dict[str, Any], samples: Samples, bound_log_ppm: int) -> OldDecision | None:
    """The decision of the direct pairs so far, of a patch that claims this bound over base.

    None where the run takes none, or the old tree could not be measured.
    """
    if not has_rules(document) or failure(document) is not None:
        return None
    claimed = bound_log_ppm * PPB_PER_PPM
    worth = [gain - claimed for gain in combined(samples.direct)]
    return old_decision(worth, document["old"]["paid_log_ppm"] * PPB_PER_PPM)


def wanted_pairs(
    document: dict[str, Any], samples: Samples, blocks_left: int, bound_log_ppm: int | None
) -> int:
    """Direct pairs in the next block. Before the bound is known, the first ones are spread over the measured pairs."""
    if bound_log_ppm is None:
        takes = has_rules(document) and failure(document) is None
        return spread(samples.direct, FIRST_PAIRS, blocks_left) if takes else 0
    found = decision(document, samples, bound_log_ppm)
    if found is None or found.outcome is not OldOutcome.MEASURE_ON:
        return 0
    return spread(samples.direct, found.pairs_wanted, blocks_left)


def doubt(document: dict[str, Any], found: OldDecision, bound_log_ppm: int) -> str:
    """The reason of the suspicion that base was slow next to the patch alone."""
    assert found.lower_ppb is not None and found.upper_ppb is not None
    lower, upper = found.lower_ppb // PPB_PER_PPM, -(-found.upper_ppb // PPB_PER_PPM)
    return (
        "Base was slower next to the patch than elsewhere: the patch's gain over the tree before base is at least "
        f"{signed_percent(lower + bound_log_ppm)} and at most {signed_percent(upper + bound_log_ppm)} ({found.pairs} pairs). "
        f"With at least {signed_percent(bound_log_ppm)} over base, that leaves at most {signed_percent(upper)} for base, less "
        f"than half of the {signed_percent(document['old']['paid_log_ppm'])} that was paid. Merges stop until a maintainer "
        "decides."
    )
