"""Queues per hardware: order of waiting runs, and estimates of their start and end."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from statistics import median
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.limits import NEW_ACCOUNT_PLACES, NEW_ACCOUNT_WAIT, RECENT, RUNNER_ALIVE
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
from bounty.queueing import UNKNOWN, Estimate, Waiting, estimate, fair_order, let_by
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
    return fair_order(_waiting(hardware), _load(hardware))


def note_let_by(run: Run) -> None:
    """Count a run that starts now for every first run of a new account that lets it go first out of turn.

    Called before the run leaves the queue, in the transaction that leases it.
    """
    passed = let_by(_waiting(run.hardware), _load(run.hardware), run.pk)
    Run.objects.filter(pk__in=passed, state=RunState.QUEUED).update(
        let_by=F("let_by") + 1, let_by_since=Coalesce("let_by_since", Value(timezone.now()))
    )


def _waiting(hardware: str) -> list[Waiting]:
    queued = _unstopped(Run.objects.filter(state=RunState.QUEUED, hardware=hardware, bound_to=None))
    rows = [
        run
        for run in queued.select_related("submission__bounty", "reproduction")
        if _can_be_measured([run.base_tree_id, run.candidate_tree_id])
    ]
    firsts, started = _first_runs(rows), _started(hardware)
    return [
        Waiting(
            run.pk,
            _person(run),
            run.queued_at,
            series=_series(run),
            sealed_at=run.submission.sealed_at if _series(run) and run.submission else None,
            lent=_lent(run, started),
            lets_by=_lets_by(run) if run.pk in firsts else 0,
            served=frozenset(one.person for one in started if one.at > run.queued_at)
            if run.pk in firsts
            else frozenset(),
        )
        for run in rows
    ]


def _person(run: Run) -> int | None:
    if run.submission is not None:
        return run.submission.submitter_id
    return run.reproduction.author_id if run.reproduction is not None else None


def _series(run: Run) -> tuple[int, str] | None:
    """The series of a gain's run on its hardware; None for any other run."""
    if run.submission is None or run.submission.bounty.is_for_a_bug:
        return None
    return run.submission.bounty.lineage_id, run.suite


@dataclass(frozen=True, slots=True)
class _Started:
    """A run that started recently."""

    series: tuple[int | None, str]
    person: int | None
    at: datetime


def _started(hardware: str) -> list[_Started]:
    since = timezone.now() - RECENT
    rows = Run.objects.filter(hardware=hardware, leased_at__gte=since).values_list(
        "submission__bounty__lineage", "suite", PERSON, "leased_at"
    )
    return [_Started((lineage, suite), person, at) for lineage, suite, person, at in rows if at is not None]


def _lent(run: Run, started: list[_Started]) -> int:
    series, person = _series(run), _person(run)
    return sum(
        series is not None and one.series == series and one.person != person and one.at > run.queued_at
        for one in started
    )


def _first_runs(queued: list[Run]) -> set[UUID]:
    """The oldest queued run of each person none of whose runs was ever leased."""
    oldest: dict[int, Run] = {}
    for run in sorted(queued, key=lambda run: (run.queued_at, run.pk)):
        if (person := _person(run)) is not None:
            oldest.setdefault(person, run)
    had = Run.objects.filter(attempt__gt=0).annotate(person=PERSON).filter(person__in=list(oldest))
    known = set(had.values_list("person", flat=True).distinct())
    return {run.pk for person, run in oldest.items() if person not in known}


def _lets_by(run: Run) -> int:
    """How many runs that already wait it still lets go first."""
    if run.let_by_since is not None and run.let_by_since + NEW_ACCOUNT_WAIT <= timezone.now():
        return 0
    return max(0, NEW_ACCOUNT_PLACES - run.let_by)


def _can_be_measured(trees: list[str]) -> bool:
    return all(map(has_present_layout, trees))


def _unstopped(runs: QuerySet[Run]) -> QuerySet[Run]:
    """The runs whose base tree is not known to fail on its own: see `base_stops`."""
    standing = BaseStop.objects.filter(released_at=None)
    of_lineage = standing.filter(
        lineage=Coalesce(
            OuterRef("submission__bounty__lineage"),
            OuterRef("reproduction__bounty__lineage"),
            OuterRef("tip_check__award__submission__bounty__lineage"),
        )
    )
    of_tree = standing.filter(tree=OuterRef("base_tree"))
    return runs.exclude(Exists(of_lineage)).exclude(Exists(of_tree), kind__in=[RunKind.AA, RunKind.TIP])


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
    """Load per person: leases that run now or ended recently, also those that were lost.

    Leases that the platform itself ended do not count.
    """
    since = timezone.now() - RECENT
    counted = Q(state__in=OPEN_RUN_STATES) | Q(finished_at__gte=since) | Q(lease_expires_at__gte=since)
    rows = Run.objects.filter(counted, hardware=hardware, attempt__gt=0)
    load: Counter[int | None] = Counter()
    for person, state, attempt, forgiven in rows.values_list(PERSON, "state", "attempt", "forgiven"):
        at_least = 1 if state in (*OPEN_RUN_STATES, RunState.FINISHED) else 0
        load[person] += max(at_least, attempt - forgiven)
    return load


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
