"""The guard rails of a run, each with its margin and result, read from the signed document behind its verdict.

Only for people to look at: the verdict was recomputed from the same samples when the evidence was recorded.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from benchmarks.catalogue import suite_of_case
from benchmarks.evidence.guard import Rail, rails
from benchmarks.evidence.schema import EvidenceError
from benchmarks.patch.trees import TreeError
from benchmarks.statistics.guard import GuardOutcome
from benchmarks.statistics.units import PPM, floor_ppm
from bounty.models import Evidence, RunKind
from bounty.services.trees import blob_store


class RailResult(StrEnum):
    """How one rail ended."""

    HOLDS = "holds"  # a loss of the margin is refuted
    VIOLATED = "violated"  # it is worse by more than the margin, or could not be shown not to be
    UNDECIDED = "undecided"  # the run ended before this rail did
    NOT_NEEDED = "not_needed"  # every output was equal to the bit, so this cannot have changed


@dataclass(frozen=True, slots=True)
class RailRow:
    """One rail. Effects are log_ppm; ``margin_log_ppm`` is below zero: so much worse it may be. ``suite`` is empty
    for what is measured over all of them."""

    name: str
    suite: str
    margin_log_ppm: int
    log_ppm_estimate: int | None
    log_ppm_bound: int | None
    pairs: int
    result: RailResult


def rails_of(evidence: Evidence) -> tuple[RailRow, ...]:
    """The rails of a guard run's evidence; none of another run's, or where the document is not in the store."""
    if evidence.run.kind != RunKind.GUARD:
        return ()
    try:
        return _rails_of_blob(evidence.blob)
    except (TreeError, EvidenceError):
        return ()


@lru_cache(maxsize=64)
def _rails_of_blob(blob: str) -> tuple[RailRow, ...]:
    """A blob is named by its content, so what was read once stays true."""
    sealed = json.loads(blob_store().get(blob))
    return tuple(_row(rail) for rail in rails(sealed["document"]))


def _row(rail: Rail) -> RailRow:
    decision = rail.decision
    return RailRow(
        name=rail.name,
        suite="" if rail.case is None else suite_of_case(rail.case),
        margin_log_ppm=-round(rail.plan.margin_log * PPM),
        log_ppm_estimate=None if decision.estimate is None else floor_ppm(decision.estimate),
        log_ppm_bound=None if decision.bound is None else floor_ppm(decision.bound),
        pairs=len(rail.values),
        result=_result(rail, decision.outcome),
    )


def _result(rail: Rail, outcome: GuardOutcome) -> RailResult:
    if not rail.is_needed:
        return RailResult.NOT_NEEDED
    if outcome is GuardOutcome.MEASURE_ON:
        return RailResult.UNDECIDED
    return RailResult.HOLDS if outcome is GuardOutcome.HOLDS else RailResult.VIOLATED
