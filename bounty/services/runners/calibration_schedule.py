"""Schedule of A/A runs: each runner measures a tree against itself, for every suite that bounties pay for.

A runner with other work is calibrated only when the calibration is overdue; then it comes first. A
quarantined runner is calibrated more often, so that it can be released.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from benchmarks.catalogue import BUG
from bounty.models import (
    OPEN_RUN_STATES,
    Bounty,
    BountyState,
    NoiseSample,
    QuarantineCause,
    Run,
    RunKind,
    Runner,
    RunnerState,
    RunState,
    StoredTree,
    Switch,
)
from bounty.services.emergency import is_stopped
from bounty.services.runs.lifecycle import queue_aa_run
from bounty.services.runs.queues import waiting_order
from bounty.services.series.base_stops import stopped_lineages
from bounty.services.trees import has_present_layout
from gainshare.accounts.models import User

OVERDUE_FACTOR = 2
QUARANTINE_FACTOR = 12  # times as often as an active runner


@dataclass(frozen=True, slots=True)
class Calibration:
    """One calibration: suite, preset, and the tip of the newest open bounty's lineage."""

    suite: str
    preset: str
    tree: StoredTree


def calibrations_of(hardware: str) -> list[Calibration]:
    """Calibrations for this hardware: one per suite and preset that open bounties pay for."""
    bounties = Bounty.objects.filter(state=BountyState.OPEN, hardware=hardware).select_related("lineage__tip")
    bounties = bounties.exclude(suite=BUG.name)  # its runs time nothing
    bounties = bounties.exclude(lineage__in=stopped_lineages())
    measurable = [b for b in bounties.order_by("created_at") if has_present_layout(b.lineage.tip_id)]
    newest = {(bounty.suite, bounty.preset): bounty for bounty in measurable}
    return [Calibration(*key, bounty.lineage.tip) for key, bounty in sorted(newest.items())]


def schedule_calibrations() -> list[Run]:
    """Order every A/A run that is due now. Repeating changes nothing while the first one is unfinished."""
    if is_stopped(Switch.JUDGING):
        return []
    ordered: list[Run] = []
    at_work = Runner.objects.filter(state__in=[RunnerState.ACTIVE, RunnerState.QUARANTINED])
    for runner in at_work:
        for calibration in calibrations_of(runner.hardware):
            if reason := _why_now(runner, calibration):
                ordered += filter(None, [order_calibration(runner=runner, what=calibration, reason=reason)])
    return ordered


def order_calibration(
    *, runner: Runner, what: Calibration, reason: str, actor: User | None = None
) -> Run | None:
    """Order an A/A run for this runner; None if one is queued or running already."""
    try:
        with transaction.atomic():
            return queue_aa_run(
                suite=what.suite,
                preset=what.preset,
                hardware=runner.hardware,
                tree=what.tree,
                reason=reason,
                runner=runner,
                actor=actor,
            )
    except IntegrityError:
        return None


def _why_now(runner: Runner, what: Calibration) -> str:
    """Reason why the calibration is due; empty if it is not."""
    now = timezone.now()
    age = now - last_calibrated_at(runner, what.suite, what.preset)
    interval = timedelta(seconds=settings.AA_INTERVAL_S)
    if runner.quarantine_cause != QuarantineCause.NONE:
        return "the runner is quarantined" if age >= interval / QUARANTINE_FACTOR else ""
    if age >= OVERDUE_FACTOR * interval:
        return f"the last one is {_hours(age)} ago"
    return (
        f"the runner is idle, the last one is {_hours(age)} ago"
        if age >= interval and _is_idle(runner)
        else ""
    )


def last_calibrated_at(runner: Runner, suite: str, preset: str) -> datetime:
    """Time of this runner's last A/A run, good or bad; for a new runner, the start of its history."""
    samples = NoiseSample.objects.filter(runner=runner, suite=suite, preset=preset)
    tries = Run.objects.filter(
        kind=RunKind.AA, bound_to=runner, suite=suite, preset=preset, finished_at__isnull=False
    )
    sampled = samples.order_by("-created_at").values_list("created_at", flat=True).first()
    tried = tries.order_by("-finished_at").values_list("finished_at", flat=True).first()
    return max(at for at in (runner.history_since, sampled, tried) if at is not None)


def _is_idle(runner: Runner) -> bool:
    has_run = Run.objects.filter(runner=runner, state__in=OPEN_RUN_STATES).exists()
    is_waited_for = Run.objects.filter(bound_to=runner, state=RunState.QUEUED).exists()
    return not has_run and not is_waited_for and not waiting_order(hardware=runner.hardware)


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.1f} h"
