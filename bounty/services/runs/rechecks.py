"""Random re-measurement during review: ordered with the booking, its result read from its run.

The result is derived from the stored verdicts each time, so reading it changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from django.conf import settings

from bounty.models import (
    PRICING_KINDS,
    Award,
    DisputeState,
    Run,
    RunKind,
    RunState,
    SlowBaseState,
    Submission,
)
from bounty.rechecking import doubt, is_drawn
from bounty.services.runs.lifecycle import queue_run


class CheckOutcome(StrEnum):
    """Outcome of a random re-measurement."""

    RUNNING = "running"  # not finished
    CONSISTENT = "consistent"  # the gain was found again
    INCONSISTENT = "inconsistent"  # it was not; a maintainer has to decide
    WAIVED = "waived"  # it was not, and a maintainer has upheld the confirmation
    FAILED = "failed"  # the platform could not measure


@dataclass(frozen=True, slots=True)
class Check:
    """A random re-measurement of an award's gain. ``doubt`` is the reason to doubt it, or empty."""

    run: Run
    outcome: CheckOutcome
    doubt: str = ""


def order_if_drawn(*, submission: Submission, priced: Run) -> Run | None:
    """Queue the random re-measurement of a gain that was just booked, if it is drawn."""
    percent = settings.RECHECK_PERCENT
    if not is_drawn(secret=settings.SECRET_KEY, submission_id=submission.pk, percent=percent):
        return None
    return queue_run(submission=submission, kind=RunKind.RECHECK, base=priced.base_tree, avoid_host_of=priced)


def check_of(award: Award) -> Check | None:
    """The random re-measurement of this award's price, or None."""
    priced = award.confirmation_run
    if priced is None or award.log_ppm_bound is None:
        return None
    run = (
        Run.objects.filter(
            submission=award.submission_id,
            kind__in=PRICING_KINDS,
            queued_at__gt=priced.queued_at,
            base_tree=priced.base_tree_id,
            candidate_tree=priced.candidate_tree_id,
        )
        .exclude(state=RunState.LOST)
        .select_related("verdict", "runner")
        .order_by("-queued_at")
        .first()
    )
    if run is None:
        return None
    verdict = getattr(run, "verdict", None)
    if verdict is None:
        return Check(run, CheckOutcome.RUNNING)
    if verdict.kind == "infrastructure_error":
        return Check(run, CheckOutcome.FAILED)
    against = doubt(
        confirmed_bound_log_ppm=award.log_ppm_bound,
        kind=verdict.kind,
        estimate_log_ppm=verdict.log_ppm_estimate,
        reason=verdict.reason,
    )
    if not against:
        return Check(run, CheckOutcome.CONSISTENT)
    is_waived = run.disputes.filter(state=DisputeState.OVERTURNED).exists()
    return Check(run, CheckOutcome.WAIVED if is_waived else CheckOutcome.INCONSISTENT, against)


def blocks_payment(award: Award | None) -> bool:
    """Whether merging and vesting wait: the random re-measurement has not ended, or a maintainer must decide
    first about it or about this award's tree as a base."""
    if award is not None and award.slow_bases.filter(state=SlowBaseState.OPEN).exists():
        return True
    check = check_of(award) if award is not None else None
    return check is not None and check.outcome in (CheckOutcome.RUNNING, CheckOutcome.INCONSISTENT)
