"""Hand a model over to another tree: successors start beside the serving nodes, then all new requests go to them.

Each call does what is due and can be repeated at any time, by any process: an order is unique by its berth, the switch is
one transaction of conditional updates, and what is left over from a killed process is drained by the next call. So the
old tree serves until the switch, and the new one from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.capacity.deployments.former import kept_node
from gainshare.capacity.deployments.serving import serving_tree
from gainshare.capacity.deployments.steps import Move, Place, Step, next_step
from gainshare.capacity.hosts import nodes as life_cycle
from gainshare.capacity.models import (
    HAS_SERVED,
    LIVE,
    Deployment,
    DeploymentState,
    Host,
    Node,
    NodeState,
    ScalingState,
)

BEGUN = (NodeState.STARTING, NodeState.READY)


def advance_all(now: datetime) -> int:
    """Advance every model that has a deployment; return how many switched or were given up. For beat."""
    return sum(
        advance(model, now)
        for model in Deployment.objects.order_by("model").values_list("model", flat=True).distinct()
    )


def advance(model: str, now: datetime | None = None) -> bool:
    """Do what is due for the model's handover, if there is one; whether it switched or was given up."""
    now = now or timezone.now()
    deployment = Deployment.objects.filter(model=model, state=DeploymentState.STARTING).first()
    has_ended = False
    if deployment is not None:
        step = _step_of(deployment, now)
        has_ended = _take(deployment, step, now)
    drain_strays(model)
    return has_ended


def drain_strays(model: str) -> int:
    """Drain nodes of trees that neither serve the model nor are about to; return how many.

    They were ordered before a switch and became ready after it, or belong to a deployment that was given up. One that
    keeps the tree before for a day stays.
    """
    serving = serving_tree(model)
    starting = Deployment.objects.filter(model=model, state=DeploymentState.STARTING).first()
    kept, taking_over = {serving}, serving
    of_model = Node.objects.filter(model=model)
    strays = of_model.filter(state__in=BEGUN)
    if starting is not None:
        kept.add(starting.tree)
    strays = strays.exclude(tree__in=kept)
    if starting is not None and starting.is_first:  # nothing has served yet: devices are for the new tree
        taking_over = starting.tree
        strays |= of_model.filter(state=NodeState.STARTING).exclude(tree=starting.tree)
    if (kept_one := kept_node(model, timezone.now())) is not None:
        strays = strays.exclude(pk=kept_one)
    reason = f"nodes of the {taking_over[:12] or 'installed'} tree take over"
    count = 0
    for node_id in strays.values_list("pk", flat=True):
        count += life_cycle.drain(node_id=node_id, reason=reason)
        fault_point("deployments.strays.drained_one")
    return count


def _take(deployment: Deployment, step: Step, now: datetime) -> bool:
    if step.move == Move.SWITCH:
        return switch(deployment, now)
    if step.move == Move.GIVE_UP:
        return give_up(deployment, step.why, now)
    reason = f"deployment of the {deployment.tree[:12] or 'installed'} tree"
    for node_id in step.order:
        life_cycle.order_beside(node_id=node_id, tree=deployment.tree, reason=reason)
        fault_point("deployments.successor.ordered")
    return False


def switch(deployment: Deployment, now: datetime) -> bool:
    """Let all new requests go to the deployment's nodes from now on. Returns whether this call did it.

    One transaction: the deployment that serves is superseded or, by a rollback, rolled back together with the one
    whose tree it had put back.
    """
    with transaction.atomic():
        concerned = Deployment.objects.select_for_update().filter(model=deployment.model)
        rows = list(concerned.filter(Q(pk=deployment.pk) | Q(state=DeploymentState.SERVING)).order_by("pk"))
        if not any(row.pk == deployment.pk and row.state == DeploymentState.STARTING for row in rows):
            return False
        for row in rows:
            if row.pk != deployment.pk:
                _end_serving(row, deployment, now)
        fault_point("deployments.switch.superseded")
        Deployment.objects.filter(pk=deployment.pk).update(state=DeploymentState.SERVING, serving_at=now)
        fault_point("deployments.switch.before_commit")
    fault_point("deployments.switch.committed")
    return True


def give_up(deployment: Deployment, why: str, now: datetime) -> bool:
    """End a deployment whose nodes do not start. What serves continues to serve. Returns whether this call did it."""
    starting = Deployment.objects.filter(pk=deployment.pk, state=DeploymentState.STARTING)
    is_ended = starting.update(state=DeploymentState.FAILED, why=why[:300], ended_at=now) > 0
    fault_point("deployments.given_up")
    return is_ended


def original(deployment: Deployment | None) -> Deployment | None:
    """The deployment whose tree this one executes: a rollback's is the one that it put back; None: the installed one."""
    while deployment is not None and deployment.is_rollback:
        deployment = deployment.before
    return deployment


def _end_serving(row: Deployment, by: Deployment, now: datetime) -> None:
    if not by.is_rollback:
        Deployment.objects.filter(pk=row.pk).update(state=DeploymentState.SUPERSEDED, ended_at=now)
        return
    source = original(row)
    ids = {row.pk} if source is None else {row.pk, source.pk}
    Deployment.objects.filter(pk__in=ids, state__in=HAS_SERVED).update(
        state=DeploymentState.ROLLED_BACK, ended_at=now, why=by.reason
    )


def _step_of(deployment: Deployment, now: datetime) -> Step:
    live = list(
        Node.objects.filter(model=deployment.model, state__in=LIVE).select_related("host").order_by("pk")
    )
    new = [node for node in live if node.tree == deployment.tree]
    old = [node for node in live if node.tree != deployment.tree]
    replaced = [node for node in old if node.state == NodeState.READY and node.hung_at is None]
    since = deployment.starting_at or deployment.created_at
    return next_step(
        [_place(node, new, now) for node in replaced],
        n_ready=sum(_answers(node) for node in new),
        is_first=deployment.is_first,
        is_wanted=_is_wanted(deployment.model),
        worst_failures=_worst_failures(deployment, since),
        waited_s=(now - since).total_seconds(),
        limit_s=settings.HANDOVER_LIMIT_S,
    )


def _place(node: Node, new: Iterable[Node], now: datetime) -> Place:
    beside = [
        one
        for one in new
        if (one.host_id, one.device) == (node.host_id, node.device)
        and one.berth != node.berth
        and one.state in BEGUN
    ]
    holding = Node.objects.filter(Q(state__in=LIVE) | Q(holds_device=True))
    taken = holding.filter(host=node.host_id, device=node.device).exclude(berth=node.berth)
    return Place(
        node=node.pk,
        can_follow=_can_follow(node.host, node.device, now),
        is_berth_free=not taken.exists(),
        has_successor=bool(beside),
        is_successor_ready=any(_answers(one) for one in beside),
    )


def _can_follow(host: Host, device: int, now: datetime) -> bool:
    heard_since = now - timedelta(seconds=settings.HOST_LOST_S)
    is_heard = host.last_seen_at is not None and host.last_seen_at >= heard_since
    return is_heard and host.revoked_at is None and host.leaves_at is None and device < host.n_devices


def _answers(node: Node) -> bool:
    return node.state == NodeState.READY and node.hung_at is None


def _is_wanted(model: str) -> bool:
    """Whether scaling wants a node of the model, or has not said yet."""
    wanted = ScalingState.objects.filter(served__name=model).values_list("wanted", flat=True).first()
    return wanted is None or sum(wanted.values()) > 0


def _worst_failures(deployment: Deployment, since: datetime) -> int:
    """Starts of the deployment's nodes that ended by themselves before they were ready: of the device that has most."""
    ended = Node.objects.filter(
        model=deployment.model,
        tree=deployment.tree,
        created_at__gte=since,
        state=NodeState.ENDED,
        ready_at=None,
        draining_at=None,
        told_at__isnull=False,
        holds_device=False,
    ).exclude(end_reason__startswith=life_cycle.OF_ITS_HOST)
    places: list[tuple[UUID, int]] = list(ended.values_list("host", "device"))
    return max(Counter(places).values(), default=0)
