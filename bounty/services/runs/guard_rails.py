"""Guard rails before an award: one run after each price, which shows that nothing else became worse.

The judge takes the other suites, peak memory and load time from its own list. This module orders the run, and
reads each rail's margin and result from the signed document for pages and REST. The verdict itself was
recomputed from the samples when the evidence was recorded.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from django.db import transaction

from benchmarks.catalogue import suite_of_case
from benchmarks.evidence.guard import Rail, rails
from benchmarks.evidence.schema import EvidenceError
from benchmarks.faults import fault_point
from benchmarks.patch.trees import TreeError
from benchmarks.statistics.guard import GuardOutcome
from benchmarks.statistics.units import PPM, floor_ppm
from bounty.models import PRICING_KINDS, Evidence, Run, RunKind, Submission, SubmissionState
from bounty.services.runs.lifecycle import queue_run
from bounty.services.trees import blob_store


def pricing_run(submission: Submission) -> Run | None:
    """The newest run that may price the submission."""
    return submission.runs.filter(kind__in=PRICING_KINDS).order_by("-queued_at").first()


def guard_of(priced: Run) -> Run | None:
    """The guard run of this pricing run, if it was ordered."""
    return Run.objects.filter(after=priced).first()


def order_guard(*, submission: Submission, priced: Run) -> bool:
    """Order the guard run of a confirmed price, once. False if it was ordered already or is no longer needed."""
    with transaction.atomic():
        # A second worker waits here, and then finds the run.
        locked = Submission.objects.select_for_update(no_key=True).get(pk=submission.pk)
        newest = pricing_run(locked)
        if locked.state != SubmissionState.CONFIRMING or newest is None or newest.pk != priced.pk:
            return False
        if guard_of(priced) is not None:
            return False
        queue_run(submission=submission, kind=RunKind.GUARD, base=priced.base_tree, after=priced)
    fault_point("control.guard_ordered")
    return False


class RailResult(StrEnum):
    """Result of one rail."""

    HOLDS = "holds"  # a loss above the margin is ruled out
    VIOLATED = "violated"  # it is worse by more than the margin, or this could not be ruled out
    UNDECIDED = "undecided"  # the run ended before this rail was decided
    NOT_NEEDED = "not_needed"  # all outputs are bit-identical, so it cannot have changed


@dataclass(frozen=True, slots=True)
class RailRow:
    """One rail. Effects are log_ppm; ``margin_log_ppm``, below zero, is the largest allowed loss. ``suite``
    is empty for a rail over all suites."""

    name: str
    suite: str
    margin_log_ppm: int
    log_ppm_estimate: int | None
    log_ppm_bound: int | None
    pairs: int
    result: RailResult


def rails_of(evidence: Evidence) -> tuple[RailRow, ...]:
    """The rails of a guard run's evidence; empty for other runs, or if the document is not in the store."""
    if evidence.run.kind != RunKind.GUARD:
        return ()
    try:
        return _rails_of_blob(evidence.blob)
    except (TreeError, EvidenceError):
        return ()


@lru_cache(maxsize=64)
def _rails_of_blob(blob: str) -> tuple[RailRow, ...]:
    """Rails from a blob; cached, because a blob never changes."""
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
