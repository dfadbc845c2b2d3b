"""Queues per hardware: order of waiting runs, and estimates of their start and end."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from statistics import median
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.limits import RECENT, RUNNER_ALIVE
from bounty.models import (
    OPEN_RUN_STATES,
    BaseStop,
    QuarantineCause,
    Run,
    RunKind,
    Runner,
    RunnerState,
    RunState,
    Switch,
)
from bounty.queueing import UNKNOWN, Estimate, Waiting, estimate, fair_order
from bounty.services.emergency import is_stopped
from bounty.services.runners.device_waits import is_waiting
from bounty.services.trees import has_present_layout

TYPICAL_OF = 20  # number of finished runs behind an estimate
# Field of the person whose turn a run takes; null for an A/A run.
PERSON = Coalesce("submission__submitter_id", "reproduction__author_id")
Sort = tuple[
    str, str, str
]  # kind, suite and preset, which determine a run's duration on one kind of hardware


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Place of an unfinished run. ``position`` 0 is next, None is running; ``runners`` is the number of
    active ones. ``waiting_for_device`` of them cannot take a run now, because other work uses their device.
    """

    position: int | None
    runners: int
    starts_in_s: int | None
    ends_in_s: int | None
    waiting_for_device: int = 0


def waiting_order(*, hardware: str) -> list[UUID]:
    """Queued runs that any runner of this hardware may take, in the order of leasing.

    Runs of trees of an older layout, and of stopped lineages, are left out, as in `own_order`, because they cannot be
    measured.
    """
    queued = _unstopped(Run.objects.filter(state=RunState.QUEUED, hardware=hardware, bound_to=None))
    rows = queued.values_list("pk", PERSON, "queued_at", "base_tree", "candidate_tree")
    waiting = [Waiting(pk, person, at) for pk, person, at, *trees in rows if _can_be_measured(trees)]
    return fair_order(waiting, _load(hardware))


def _can_be_measured(trees: list[str]) -> bool:
    return all(map(has_present_layout, trees))


def _unstopped(runs: QuerySet[Run]) -> QuerySet[Run]:
    """The runs whose base tree is not known to fail on its own: see `base_stops`."""
    standing = BaseStop.objects.filter(released_at=None)
    of_lineage = standing.filter(
        lineage=Coalesce(OuterRef("submission__bounty__lineage"), OuterRef("reproduction__bounty__lineage"))
    )
    of_tree = standing.filter(tree=OuterRef("base_tree"))
    return runs.exclude(Exists(of_lineage)).exclude(Exists(of_tree), kind=RunKind.AA)


def own_order(runner: Runner) -> list[UUID]:
    """Queued runs that only this runner may take, oldest first."""
    own = _unstopped(Run.objects.filter(state=RunState.QUEUED, bound_to=runner))
    rows = own.order_by("queued_at", "pk").values_list("pk", "base_tree", "candidate_tree")
    return [pk for pk, *trees in rows if _can_be_measured(trees)]


def order_for(runner: Runner) -> list[UUID]:
    """Runs for this runner in the order of leasing: its own runs, then the fair order. In quarantine only A/A
    runs."""
    if runner.quarantine_cause == QuarantineCause.NONE:
        return own_order(runner) + waiting_order(hardware=runner.hardware)
    order = own_order(runner) + waiting_order(hardware=runner.hardware)
    allowed = set(Run.objects.filter(pk__in=order, kind=RunKind.AA).values_list("pk", flat=True))
    return [run_id for run_id in order if run_id in allowed]


def _load(hardware: str) -> Counter[int | None]:
    """Load per person: number of runs that are being judged or finished recently."""
    counted = Q(state__in=OPEN_RUN_STATES) | Q(
        state=RunState.FINISHED, finished_at__gte=timezone.now() - RECENT
    )
    people = Run.objects.filter(counted, hardware=hardware).values_list(PERSON, flat=True)
    return Counter(people)


def queue_place(run: Run) -> QueuePlace | None:
    """Place of an unfinished run with its estimated start and end; None for any other run."""
    now = timezone.now()
    if run.state in OPEN_RUN_STATES:
        left = _left_s(run, now, _typical_s(run.hardware, _sort(run)))
        return QueuePlace(None, 1, 0, None if left is None else round(left))
    if run.state != RunState.QUEUED:
        return None
    runners = list(_runners(run))
    order = own_order(runners[0]) if run.bound_to_id and runners else waiting_order(hardware=run.hardware)
    if run.pk not in order:
        return None if not run.bound_to_id else QueuePlace(0, 0, None, None)
    position = order.index(run.pk)
    waiting = sum(map(is_waiting, runners))
    found = _estimate(run, order[:position], runners, now)
    return QueuePlace(position, len(runners), found.starts_in_s, found.ends_in_s, waiting)


def _runners(run: Run) -> list[Runner]:
    """Runners that may take the run: the one that it is bound to, or the active ones of its hardware."""
    if run.bound_to is not None:
        return [run.bound_to]
    return list(
        Runner.objects.filter(
            hardware=run.hardware,
            state=RunnerState.ACTIVE,
            last_seen_at__gte=timezone.now() - RUNNER_ALIVE,
        )
    )


def _estimate(run: Run, ahead: list[UUID], runners: list[Runner], now: datetime) -> Estimate:
    """Estimate from the fair order and usual durations; runs that are bound to a runner are left out. There
    is no estimate while judging is stopped, and runners that wait for their device are not counted."""
    if not runners or is_stopped(Switch.JUDGING):
        return UNKNOWN

    @cache
    def typical(sort: Sort) -> float | None:
        return _typical_s(run.hardware, sort)

    sorts = {row.pk: _sort(row) for row in Run.objects.filter(pk__in=ahead)}
    busy = Run.objects.filter(state__in=OPEN_RUN_STATES, runner__in=runners)
    left = [_left_s(row, now, typical(_sort(row))) for row in busy]
    left += [None] * sum(map(is_waiting, runners))
    return estimate(
        ahead_s=[typical(sorts[run_id]) for run_id in ahead if run_id in sorts],
        own_s=typical(_sort(run)),
        busy_s=left,
        idle=len(runners) - len(left),
    )


def _sort(run: Run) -> Sort:
    return run.kind, run.suite, run.preset


def _left_s(run: Run, now: datetime, typical_s: float | None) -> float | None:
    """Estimated remaining seconds of a running run; None if unknown, or if it takes longer than usual."""
    if typical_s is None or run.leased_at is None:
        return None
    left = typical_s - (now - run.leased_at).total_seconds()
    return left if left > 0 else None


def _typical_s(hardware: str, sort: Sort) -> float | None:
    """Median seconds from lease to verdict of the last similar runs that finished by themselves."""
    kind, suite, preset = sort
    finished = (
        Run.objects.filter(
            state=RunState.FINISHED,
            hardware=hardware,
            kind=kind,
            suite=suite,
            preset=preset,
            leased_at__isnull=False,
            finished_at__isnull=False,
        )
        .exclude(verdict__kind=VerdictKind.INFRASTRUCTURE_ERROR.value)
        .order_by("-finished_at")
        .values_list("leased_at", "finished_at")[:TYPICAL_OF]
    )
    spans = [(end - start).total_seconds() for start, end in finished if start and end]
    return median(spans) if spans else None
