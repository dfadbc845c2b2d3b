"""Order, drain and lose nodes. Each change is one conditional UPDATE, or a row under the database's constraints."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Count, Q
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.capacity.models import LIVE, DeviceClass, Host, Node, NodeState
from gainshare.capacity.pool.loans import is_lent

MAX_REASON = 300
OF_ITS_HOST = "its host "  # how the reason of an end begins that says nothing of the node


def order(*, model: str, device_class: DeviceClass, reason: str, tree: str = "") -> Node | None:
    """Order a node on a free device of the class; its agent reads the order with its next heartbeat.

    ``tree`` is `deployments.serving.ordered_tree` of the model, for nodes that serve.

    Free is a device of a host that was seen lately, is not leaving and not revoked, if no node has it and it is not
    lent. Returns None if none is free. The hosts with the fewest nodes come first.
    """
    for host_id in _hosts(device_class, timezone.now()):
        node = _order_on(host_id, model=model, reason=reason[:MAX_REASON], tree=tree)
        if node is not None:
            fault_point("capacity.order.after_insert")
            return node
    return None


def order_beside(*, node_id: UUID, tree: str, reason: str) -> Node | None:
    """Order a successor in the second berth of a node's device, for the same model; None if that berth is not free.

    Repeating it orders no second one, because a berth takes one node. The node itself must not have ended.
    """
    with transaction.atomic():
        node = Node.objects.filter(pk=node_id, state__in=LIVE).first()
        host = None if node is None else _locked(node.host_id)
        if node is None or host is None or node.device >= host.n_devices:
            return None
        berth = 1 - node.berth
        held = Node.objects.filter(Q(state__in=LIVE) | Q(holds_device=True), host=host, device=node.device)
        if held.filter(berth=berth).exists() or is_lent(host.id, node.device):
            return None
        return _create(host, node.device, berth, model=node.model, reason=reason[:MAX_REASON], tree=tree)


def drain(*, node_id: UUID, reason: str) -> bool:
    """Let a node finish what it has begun, and give it nothing new. Returns whether this call changed it.

    A node that no agent was told to start ends at once. ``reason`` is kept as the reason of its end.
    """
    now, why = timezone.now(), reason[:MAX_REASON]
    node = Node.objects.filter(pk=node_id)
    untold = node.filter(state=NodeState.STARTING, told_at=None)
    if untold.update(state=NodeState.ENDED, ended_at=now, end_reason=why):
        return True
    begun = node.filter(state__in=[NodeState.STARTING, NodeState.READY])
    is_changed = begun.update(state=NodeState.DRAINING, draining_at=now, end_reason=why) > 0
    fault_point("capacity.drain.after_update")
    return is_changed


def lose_silent_hosts(now: datetime, *, after_s: int | None = None, but: Collection[UUID] = ()) -> int:
    """End the nodes, ``but`` these, of hosts that were silent for ``after_s`` (by default HOST_LOST_S); return how many.

    Their devices stay taken until the agent says that they are free, because the nodes may still run there.
    """
    silence_s = settings.HOST_LOST_S if after_s is None else after_s
    since = now - timedelta(seconds=silence_s)
    silent = Q(host__last_seen_at__lt=since) | Q(host__last_seen_at=None)
    lost = f"{OF_ITS_HOST}was silent for {silence_s} s"
    just_ordered = Q(told_at=None, created_at__gte=since)  # its host's agent may be about to start
    return Node.objects.filter(silent & ~just_ordered & ~Q(pk__in=but), state__in=LIVE).update(
        state=NodeState.ENDED, ended_at=now, end_reason=lost, holds_device=True
    )


def ready_nodes(model: str) -> list[Node]:
    """The nodes that serve ``model`` now and answer, oldest first."""
    return list(
        Node.objects.filter(model=model, state=NodeState.READY, hung_at=None).select_related(
            "host__device_class"
        )
    )


def _hosts(device_class: DeviceClass, now: datetime) -> list[UUID]:
    """Ids of the hosts that may get a node now, the emptiest first."""
    live = Count("nodes", filter=Q(nodes__state__in=LIVE))
    found = Host.objects.filter(_usable(now), device_class=device_class).annotate(live=live)
    return list(found.order_by("live", "name").values_list("id", flat=True))


def _usable(now: datetime) -> Q:
    seen = now - timedelta(seconds=settings.HOST_LOST_S)
    return Q(revoked_at=None, leaves_at=None, n_devices__gt=0, last_seen_at__gte=seen)


def _order_on(host_id: UUID, *, model: str, reason: str, tree: str) -> Node | None:
    """Order on the first free device of a host."""
    with transaction.atomic():
        host = _locked(host_id)
        if host is None:
            return None
        for device in _free_devices(host):
            node = _create(host, device, 0, model=model, reason=reason, tree=tree)
            if node is not None:
                return node
    return None


def _locked(host_id: UUID) -> Host | None:
    """The host, locked so that no loan or revocation passes between; None if it may get no node now."""
    usable = Host.objects.select_for_update(of=("self",)).filter(_usable(timezone.now()), pk=host_id)
    return usable.select_related("device_class").first()


def _create(host: Host, device: int, berth: int, *, model: str, reason: str, tree: str) -> Node | None:
    """Write the order; None if the berth was taken meanwhile."""
    try:
        with transaction.atomic():
            return Node.objects.create(
                host=host,
                device=device,
                berth=berth,
                model=model,
                tree=tree,
                reason=reason,
                price_microcredits_per_device_hour=host.device_class.price_microcredits_per_device_hour,
            )
    except IntegrityError:
        return None


def _free_devices(host: Host) -> Iterator[int]:
    """Devices with both berths free that are not lent."""
    held = Node.objects.filter(Q(state__in=LIVE) | Q(holds_device=True), host=host)
    taken = set(held.values_list("device", flat=True))
    for device in range(host.n_devices):
        if device not in taken and not is_lent(host.id, device):
            yield device
