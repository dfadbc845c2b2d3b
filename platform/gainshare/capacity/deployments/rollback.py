"""Put back the tree that served before."""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.accounts.models import User
from gainshare.capacity.deployments.errors import DeploymentUnderWay, NothingBefore
from gainshare.capacity.deployments.handover import advance, original
from gainshare.capacity.errors import NotAllowed
from gainshare.capacity.models import UNDER_WAY, Deployment, DeploymentState

MAX_REASON = 300


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
    """The same for the platform: once for each deployment, whatever becomes of it. Returns whether this call did it."""
    serving = Deployment.objects.filter(
        pk=deployment.pk, state=DeploymentState.SERVING, watch_ended_at=None, is_rollback=False
    )
    with transaction.atomic():
        if not serving.update(watch_ended_at=now):
            return False
        roll_back(model=deployment.model, actor=None, reason=reason)
    return True


def _ask(model: str, actor: User | None, reason: str) -> Deployment:
    of_model = Deployment.objects.select_for_update().filter(model=model)
    rows = list(of_model.filter(state__in=[*UNDER_WAY, DeploymentState.SERVING]).order_by("pk"))
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


def _end(under_way: Deployment) -> None:
    Deployment.objects.filter(pk=under_way.pk).update(
        state=DeploymentState.FAILED, why="a rollback was asked for", ended_at=timezone.now()
    )
