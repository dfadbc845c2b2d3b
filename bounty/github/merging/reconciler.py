"""Finds, for beat, what a lost message or a killed process left: code on a branch whose submission was decided, and
approvals on GitHub that were given before they could be counted."""

from bounty.github.merging.acceptance import count_standing
from bounty.models import Landing, LandingState, SubmissionState
from bounty.services.wakeups import wake_fetch

IN_JUDGEMENT = (
    SubmissionState.CHECKED,
    SubmissionState.QUEUED,
    SubmissionState.JUDGING,
    SubmissionState.CONFIRMING,
    SubmissionState.CONFIRMED,
)


def reconcile() -> int:
    """Count approvals that are due, and have the branches fetched on which something may be merged; their number."""
    counted = count_standing()
    waiting = Landing.objects.filter(ended_at=None)
    due = waiting.exclude(state=LandingState.WAITING, submission__state__in=IN_JUDGEMENT)
    lineages = sorted(set(due.values_list("lineage__name", flat=True)))
    for name in lineages:
        wake_fetch(lineage=name)
    return counted + len(lineages)
