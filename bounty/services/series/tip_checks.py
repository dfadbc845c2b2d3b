"""Scheduled checks of merged trees against the tree before them (`benchmarks.statistics.tip`).

Beat checks one merged gain of each series in an interval, the one whose check is the longest ago, and only while a runner
of its hardware has nothing else to do. A first finding orders a second check. If that agrees, merges of the lineage stop
until a maintainer decides (`bounty.services.series.slow_bases`).
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from benchmarks.evidence.tip import outcome
from benchmarks.faults import fault_point
from bounty.models import (
    OPEN_RUN_STATES,
    Award,
    AwardRole,
    Lineage,
    Run,
    RunKind,
    Runner,
    RunnerState,
    RunState,
    SlowBase,
    SlowBaseState,
    Switch,
    TipCheck,
    TipCheckOutcome,
)
from bounty.services.emergency import is_stopped
from bounty.services.runs.queues import waiting_order
from bounty.services.series.base_stops import stopped_lineages
from bounty.services.series.best import STANDING
from bounty.services.transitions import note
from bounty.services.trees import has_present_layout
from bounty.services.wakeups import wake_runner

Series = tuple[int, str, str]  # lineage, suite, hardware
FINDINGS = {
    TipCheckOutcome.SLOW: "found the merged tree slow",
    TipCheckOutcome.FAILED: "ended by a failure of the merged tree",
}


def schedule_tip_checks() -> list[TipCheck]:
    """Order every check that is due now. Repeating changes nothing while it is unfinished."""
    end_without_figures()
    if is_stopped(Switch.JUDGING):
        return []
    ordered = [_order_if_due(awards) for awards in _by_series(_checkable()).values()]
    return [check for check in ordered if check is not None]


def note_tip_check(*, run: Run, document: dict[str, Any], is_trusted: bool) -> None:
    """Write down what a check's evidence says; a second finding stops merges. Inside the recording transaction."""
    check = TipCheck.objects.select_related("award", "repeats").filter(run=run).first()
    if check is None:
        return
    found = outcome(document, check.award.log_ppm_bound or 0) if is_trusted else TipCheckOutcome.UNCLEAR
    _end(check, found.value)
    if check.outcome in FINDINGS and check.repeats is not None:
        row = SlowBase.objects.create(run=run, award=check.award)
        told = [f"run {each.run_id} {_what(each)}" for each in (check.repeats, check)]
        note(row, old="", new=row.state, reason=f"{' and '.join(told)}; merges of the lineage wait")


def end_without_figures() -> int:
    """End checks whose run was cancelled or ended without evidence; return their number."""
    over = TipCheck.objects.filter(
        outcome=TipCheckOutcome.OPEN, run__state__in=[RunState.LOST, RunState.FINISHED]
    )
    for check in over:
        _end(check, TipCheckOutcome.UNCLEAR)
    return len(over)


def newest_checks(lineage: Lineage) -> list[TipCheck]:
    """The newest check of each merged gain of the lineage, the newest first."""
    rows = TipCheck.objects.filter(award__submission__bounty__lineage=lineage)
    newest = rows.order_by("award_id", "-created_at").distinct("award_id").values("pk")
    found = TipCheck.objects.filter(pk__in=newest).select_related(
        "award__submission__submitter", "award__submission__bounty", "run__verdict"
    )
    return list(found.order_by("-created_at"))


def _what(check: TipCheck) -> str:
    return FINDINGS[TipCheckOutcome(check.outcome)]


def _end(check: TipCheck, found: str) -> None:
    now = timezone.now()
    TipCheck.objects.filter(pk=check.pk, outcome=TipCheckOutcome.OPEN).update(outcome=found, ended_at=now)
    check.outcome, check.ended_at = found, now


def _checkable() -> QuerySet[Award]:
    """Merged gains that were not taken back, and whose tree is not in doubt or decided to have kept its gain."""
    answered = SlowBase.objects.filter(state__in=[SlowBaseState.OPEN, SlowBaseState.KEPT])
    awards = Award.objects.filter(
        role=AwardRole.GAIN,
        state__in=STANDING,
        submission__merged_at__isnull=False,
        log_ppm_bound__isnull=False,
    )
    awards = awards.exclude(pk__in=answered.values("award"))
    awards = awards.exclude(submission__bounty__lineage__in=stopped_lineages())
    rows = awards.select_related(
        "submission__bounty", "confirmation_run__base_tree", "confirmation_run__candidate_tree"
    )
    return rows.order_by("-series_at", "pk")


def _by_series(awards: Iterable[Award]) -> dict[Series, list[Award]]:
    found: dict[Series, list[Award]] = defaultdict(list)
    for award in awards:
        run, bounty = award.confirmation_run, award.submission.bounty
        assert run is not None, "a booked award is confirmed"
        if has_present_layout(run.base_tree_id) and has_present_layout(run.candidate_tree_id):
            found[(bounty.lineage_id, bounty.suite, bounty.hardware)].append(award)
    return found


def _order_if_due(awards: list[Award]) -> TipCheck | None:
    """Order the series' check: of a finding that has to be repeated, or of the gain that was checked the longest ago."""
    checks = list(
        TipCheck.objects.filter(award__in=awards).select_related("run__runner").order_by("created_at")
    )
    if any(check.outcome == TipCheckOutcome.OPEN for check in checks):
        return None
    newest = {check.award_id: check for check in checks}
    for award in awards:
        last = newest.get(award.pk)
        if last is not None and last.outcome in FINDINGS and last.repeats_id is None:
            return _order(award, repeats=last) if _is_idle(award.submission.bounty.hardware) else None
    never = datetime.min.replace(tzinfo=UTC)
    award = min(awards, key=lambda each: newest[each.pk].created_at if each.pk in newest else never)
    last_at = max(
        [check.created_at for check in checks]
        or [each.submission.merged_at for each in awards if each.submission.merged_at is not None]
    )
    is_due = timezone.now() - last_at >= timedelta(seconds=settings.TIP_CHECK_INTERVAL_S)
    if not is_due or not _is_idle(award.submission.bounty.hardware):
        return None
    last = newest.get(award.pk)
    is_open = last is not None and last.outcome == TipCheckOutcome.UNCLEAR and last.repeats_id is not None
    return _order(award, repeats=last.repeats if last is not None and is_open else None)


def _order(award: Award, *, repeats: TipCheck | None) -> TipCheck | None:
    """Queue the run; None if another process has just ordered one."""
    priced, bounty = award.confirmation_run, award.submission.bounty
    assert priced is not None, "a booked award is confirmed"
    measured_by = repeats.run.runner if repeats is not None else None
    try:
        with transaction.atomic():
            run = Run.objects.create(
                kind=RunKind.TIP,
                suite=bounty.suite,
                preset=bounty.preset,
                hardware=bounty.hardware,
                base_tree=priced.base_tree,
                candidate_tree=priced.candidate_tree,
                avoid_host=measured_by.host if measured_by is not None else "",
                woken_at=timezone.now(),
            )
            check = TipCheck.objects.create(award=award, run=run, repeats=repeats)
            why = f"a check {_what(repeats)}: it is repeated" if repeats is not None else "due"
            note(run, old="", new=run.state, reason=f"check of the merged tree: {why}")
            wake_runner(run_id=run.pk, hardware=run.hardware)
    except IntegrityError:
        return None
    fault_point("control.tip_check_ordered")
    return check


def _is_idle(hardware: str) -> bool:
    """Whether nothing of this hardware waits and one of its runners is at work, without a run."""
    busy = Run.objects.filter(state__in=OPEN_RUN_STATES, runner__isnull=False).values("runner")
    asked = Run.objects.filter(state=RunState.QUEUED, bound_to__isnull=False).values("bound_to")
    idle = Runner.objects.filter(hardware=hardware, state=RunnerState.ACTIVE)
    idle = idle.exclude(pk__in=busy).exclude(pk__in=asked)
    return idle.exists() and not waiting_order(hardware=hardware)
