"""What a check of a merged tree says: whether the tree still has what was paid for it. Pure.

The document is a confirmation's: base is the tree before the merge, the candidate is the merged tree.
"""

from typing import Any

from benchmarks.evidence.samples import PPB_PER_PPM, read_samples, thawed_side
from benchmarks.statistics.tip import TipOutcome, tip_outcome


def outcome(document: dict[str, Any], paid_log_ppm: int) -> TipOutcome:
    """The outcome of a verified document; unclear where a side failed, or its times cannot be trusted."""
    if document["events"] or document["checks"]["failures"] or thawed_side(document) is not None:
        return TipOutcome.UNCLEAR
    return tip_outcome(gains_ppb(document), paid_log_ppm * PPB_PER_PPM)


def gains_ppb(document: dict[str, Any]) -> list[int]:
    """ln(tree before / tree) of each unit in billionths of a nat: the k-th complete pair of every case, their mean."""
    rounds = zip(*read_samples(document).by_case.values(), strict=False)
    return [sum(values) // len(values) for values in rounds]
