"""Failed attempts of runners. Too many in a row quarantine the runner."""

from datetime import datetime

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.runner_health import LIMITS, failed_too_often
from bounty.models import QuarantineCause, Run, Runner, RunnerFailure, RunVerdict, StateChange
from bounty.services.runners.quarantine import quarantine


def note_failure(*, run: Run, reason: str) -> None:
    """Record a failed attempt. Inside the transaction that takes the run from its runner."""
    if run.runner is None:
        return
    RunnerFailure.objects.get_or_create(
        run=run, attempt=run.attempt, defaults={"runner": run.runner, "reason": reason[:2000]}
    )
    failed = RunnerFailure.objects.filter(runner=run.runner, created_at__gt=last_finished_at(run.runner))
    if failed_too_often(list(failed.values_list("run", flat=True))):
        quarantine(
            runner=run.runner,
            cause=QuarantineCause.FAILURES,
            reason=f"{LIMITS.failures_in_a_row} different runs failed in a row, the last one because: {reason}"[
                :2000
            ],
        )


def last_finished_at(runner: Runner) -> datetime:
    """Earliest time of a row of failures: the runner's last finished run, or its last change of state."""
    finished = (
        RunVerdict.objects.filter(run__runner=runner, evidence__isnull=False)
        .exclude(kind=VerdictKind.INFRASTRUCTURE_ERROR.value)
        .order_by("-created_at")
        .values_list("created_at", flat=True)
        .first()
    )
    changed = (
        StateChange.objects.filter(subject="runner", subject_id=str(runner.pk))
        .order_by("-pk")
        .values_list("created_at", flat=True)
        .first()
    )
    return max(at for at in (runner.created_at, finished, changed) if at is not None)
