"""Runs in doubt: finished before their runner's drift was found, so their figures may be wrong."""

from datetime import datetime

from django.db.models import Q

from benchmarks.judging.verdicts import VerdictKind
from bounty.models import PRICING_KINDS, NoiseSample, Run, RunKind, Runner, RunState, SubmissionState

# Submissions in these states are not paid.
UNPAID_STATES = (
    SubmissionState.REJECTED,
    SubmissionState.DECLINED,
    SubmissionState.WITHDRAWN,
    SubmissionState.REVERSED,
)


def runs_in_doubt(runner: Runner) -> list[Run]:
    """Award-relevant runs between the runner's last good A/A run and its quarantine for drift, oldest first.

    Award-relevant are gains, and all runs that price or guard one. The list stays after the runner is
    released. It is empty for a runner that was never in quarantine for drift.
    """
    until = runner.quarantined_at
    if until is None or not _drifted(runner, until):
        return []
    relevant = Q(verdict__kind=VerdictKind.GAIN.value) | Q(kind__in=[*PRICING_KINDS, RunKind.GUARD])
    runs = Run.objects.filter(
        relevant,
        runner=runner,
        state=RunState.FINISHED,
        submission__isnull=False,
        verdict__evidence__is_award_eligible=True,
        finished_at__gt=last_good_before(runner, until),
        finished_at__lte=until,
    )
    return list(
        runs.exclude(submission__state__in=UNPAID_STATES)
        .select_related("submission__bounty", "submission__submitter", "verdict", "runner")
        .order_by("finished_at")
    )


def last_good_before(runner: Runner, until: datetime) -> datetime:
    """Time of the runner's last good A/A run, else the start of its history."""
    start = runner.history_since if runner.history_since <= until else runner.created_at
    good = NoiseSample.objects.filter(runner=runner, is_good=True, created_at__lte=until)
    at = good.order_by("-created_at").values_list("created_at", flat=True).first()
    return start if at is None else max(at, start)


def _drifted(runner: Runner, until: datetime) -> bool:
    """Whether its last A/A run before the quarantine was bad."""
    newest = NoiseSample.objects.filter(runner=runner, created_at__lte=until).order_by("-created_at").first()
    return newest is not None and not newest.is_good
