"""What a check of a merged tree says: whether the tree still has what was paid for it. Pure.

The document is a confirmation's: base is the tree before the merge, the candidate is the merged tree.
"""

from typing import Any

from benchmarks.evidence.base_checks import (
    START,
    BaseState,
    deciding_event,
    has_rules,
    names_base,
    ran_without_the_candidate,
    state_of_base,
)
from benchmarks.evidence.samples import PPB_PER_PPM, read_samples, thawed_side
from benchmarks.statistics.tip import TipOutcome, tip_outcome

NO_SIDE_S_FAULT = ("cancelled", "infrastructure_error")


def outcome(document: dict[str, Any], paid_log_ppm: int) -> TipOutcome:
    """The outcome of a verified document; unclear where another side failed, or its times cannot be trusted."""
    if (event := deciding_event(document)) is not None:
        return TipOutcome.FAILED if _is_of_tree(document, event) else TipOutcome.UNCLEAR
    if (thawed := thawed_side(document)) is not None:
        return TipOutcome.FAILED if thawed[1] == "candidate" else TipOutcome.UNCLEAR
    if document["checks"]["failures"]:
        return TipOutcome.UNCLEAR
    return tip_outcome(gains_ppb(document), paid_log_ppm * PPB_PER_PPM)


def _is_of_tree(document: dict[str, Any], event: dict[str, Any]) -> bool:
    """Whether the merged tree did what ended the run: by itself, or to the tree before it, which works without it."""
    if event["kind"] in NO_SIDE_S_FAULT or event.get("stage") == START:
        return False
    if has_rules(document) and names_base(document, event):
        return state_of_base(document) is BaseState.WORKS and not ran_without_the_candidate(document, event)
    return event.get("side") == "candidate"


def gains_ppb(document: dict[str, Any]) -> list[int]:
    """ln(tree before / tree) of each unit in billionths of a nat: the k-th complete pair of every case, their mean."""
    rounds = zip(*read_samples(document).by_case.values(), strict=False)
    return [sum(values) // len(values) for values in rounds]
