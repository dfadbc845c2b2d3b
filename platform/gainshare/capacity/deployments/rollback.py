"""Put back the tree that served before."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.accounts.models import User
from gainshare.capacity.deployments.errors import DeploymentUnderWay, NothingBefore
from gainshare.capacity.deployments.handover import advance, original
from gainshare.capacity.errors import NotAllowed
from gainshare.capacity.models import UNDER_WAY, Deployment, DeploymentState

MAX_REASON = 300
#: The platform's next try after a rollback that failed: after the first, the second, and each later one.
AGAIN_AFTER = (timedelta(minutes=10), timedelta(minutes=30), timedelta(hours=1))


def roll_back(*, model: str, actor: User | None, reason: str) -> Deployment:
    """Put back what served before the model's serving deployment, without a canary; return the new deployment.

    ``actor`` None is the platform itself; people must be maintainers. What is under way is ended as failed, because the
    deployment that it was compared with goes; where no deployment serves yet, that is all. A rollback that is under way
    already is returned. A second rollback, after the first one serves, goes one deployment further back. Raises
    NotAllowed, NothingBefore, DeploymentUnderWay.
    """
    if actor is not None and not actor.is_maintainer:
        raise NotAllowed("Only maintainers can roll a deployment back. Ask a maintainer to do it.")
    try:
        with transaction.atomic():
            made = _ask(model, actor, reason)
            fault_point("deployments.rollback.before_commit")
    except IntegrityError:  # another process asked in the same moment
        under_way = Deployment.objects.filter(model=model, state__in=UNDER_WAY, is_rollback=True).first()
        if under_way is None:
            raise DeploymentUnderWay("Another deployment was asked for in this moment. Try again.") from None
        return under_way
    fault_point("deployments.rollback.committed")
    advance(model)
    return Deployment.objects.get(pk=made.pk)


def roll_back_by_itself(deployment: Deployment, reason: str, now: datetime) -> bool:
    """The same for the platform, and again after a while where a rollback failed. Returns whether this call did it."""
    with transaction.atomic():
        rows = _concerned(deployment.model)
        serving = next((row for row in rows if row.pk == deployment.pk), None)
        if serving is None or serving.state != DeploymentState.SERVING or serving.is_rollback:
            return False
        if serving.watch_ended_at is not None and not _is_due(serving, now):
            return False
        Deployment.objects.filter(pk=serving.pk, watch_ended_at=None).update(watch_ended_at=now)
        roll_back(model=deployment.model, actor=None, reason=reason)
    return True


def why_tried(deployment: Deployment) -> str:
    """Why the platform asked for a rollback of the serving deployment that failed; empty: it did not, or none failed."""
    if deployment.watch_ended_at is None:
        return ""
    failed = _tries(deployment).filter(state=DeploymentState.FAILED, requested_by=None)
    return failed.order_by("-created_at").values_list("reason", flat=True).first() or ""


def _is_due(serving: Deployment, now: datetime) -> bool:
    """Whether it is time for another try: none is under way, and the last one failed long enough ago."""
    tries = list(_tries(serving).values_list("state", "ended_at"))
    ends = [ended_at for state, ended_at in tries if state == DeploymentState.FAILED and ended_at is not None]
    if len(ends) < len(tries):
        return False
    return not ends or now >= max(ends) + AGAIN_AFTER[min(len(ends), len(AGAIN_AFTER)) - 1]


def _tries(serving: Deployment) -> QuerySet[Deployment]:
    """Rollbacks of the model that were asked for since it serves."""
    return Deployment.objects.filter(
        model=serving.model, is_rollback=True, created_at__gte=serving.serving_at
    )


def _ask(model: str, actor: User | None, reason: str) -> Deployment:
    rows = _concerned(model)
    under_way = next((row for row in rows if row.state != DeploymentState.SERVING), None)
    if under_way is not None and under_way.is_rollback:
        return under_way
    serving = next((row for row in rows if row.state == DeploymentState.SERVING), None)
    source = original(serving)
    if serving is None and under_way is not None:
        _end(under_way)
        return under_way
    if serving is None or source is None:
        raise NothingBefore(
            f"The installed tree serves {model}: nothing served before it. Deploy another tree instead."
        )
    if under_way is not None:
        _end(under_way)
    target = original(source.before)
    return Deployment.objects.create(
        model=model,
        tree="" if target is None else target.tree,
        before=target,
        is_rollback=True,
        lineage="" if target is None else target.lineage,
        reason=reason[:MAX_REASON],
        requested_by=actor,
        state=DeploymentState.STARTING,
        starting_at=timezone.now(),
    )


def _concerned(model: str) -> list[Deployment]:
    """What is under way and what serves, locked in one order."""
    of_model = Deployment.objects.select_for_update().filter(model=model)
    return list(of_model.filter(state__in=[*UNDER_WAY, DeploymentState.SERVING]).order_by("pk"))


def _end(under_way: Deployment) -> None:
    Deployment.objects.filter(pk=under_way.pk).update(
        state=DeploymentState.FAILED, why="a rollback was asked for", ended_at=timezone.now()
    )
