"""What is waiting for each kind of hardware, in what order, and for about how long."""

from collections import Counter
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from bounty.limits import RECENT, RUNNER_ALIVE
from bounty.models import OPEN_RUN_STATES, Run, Runner, RunnerState, RunState
from bounty.queueing import Waiting, eta_s, fair_order

TYPICAL_OF = 20  # finished runs


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """0 is next. ``eta_s`` is None while there is nothing to go by."""

    position: int
    eta_s: int | None


def waiting_order(*, hardware: str) -> list[UUID]:
    """Queued runs of this hardware in the order in which they would be leased now."""
    queued = Run.objects.filter(state=RunState.QUEUED, hardware=hardware)
    waiting = [
        Waiting(pk, person, at)
        for pk, person, at in queued.values_list("pk", "submission__submitter_id", "queued_at")
    ]
    return fair_order(waiting, _load(hardware))


def _load(hardware: str) -> Counter[int | None]:
    """Per person: runs being judged, and runs finished within the recent past."""
    counted = Q(state__in=OPEN_RUN_STATES) | Q(
        state=RunState.FINISHED, finished_at__gte=timezone.now() - RECENT
    )
    people = Run.objects.filter(counted, hardware=hardware).values_list("submission__submitter_id", flat=True)
    return Counter(people)


def queue_place(run: Run) -> QueuePlace | None:
    """Where a queued run stands; None for any other."""
    if run.state != RunState.QUEUED:
        return None
    order = waiting_order(hardware=run.hardware)
    if run.pk not in order:
        return None
    position = order.index(run.pk)
    runners = Runner.objects.filter(
        hardware=run.hardware,
        state=RunnerState.ACTIVE,
        last_seen_at__gte=timezone.now() - RUNNER_ALIVE,
    ).count()
    return QueuePlace(position, eta_s(position=position, typical_run_s=_typical_s(run), runners=runners))


def _typical_s(run: Run) -> float | None:
    """Mean seconds from lease to verdict of the last finished runs of this hardware and suite."""
    finished = Run.objects.filter(
        state=RunState.FINISHED, hardware=run.hardware, suite=run.suite, leased_at__isnull=False
    ).order_by("-finished_at")[:TYPICAL_OF]
    spans = [
        (row.finished_at - row.leased_at).total_seconds()
        for row in finished
        if row.leased_at and row.finished_at
    ]
    return sum(spans) / len(spans) if spans else None
