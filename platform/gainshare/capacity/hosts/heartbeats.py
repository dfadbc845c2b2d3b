"""Take an agent's heartbeat: what runs on its devices, and in return what should.

One transaction under the host's row lock: a heartbeat counts wholly or not at all, and only in its order. What an agent
says concerns its own host's nodes alone; nothing that it says sets a price, a class or a charge.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.sandbox.readable import readable
from gainshare.capacity.agent.protocol import (
    DRAINING,
    HUNG,
    MAX_TEXT,
    READY,
    DeviceReport,
    Heartbeat,
    NodeOrder,
)
from gainshare.capacity.errors import CapacityError, StaleHeartbeat, Superseded
from gainshare.capacity.hosts.addresses import address_of, node_url
from gainshare.capacity.hosts.leaving import note_departure
from gainshare.capacity.hosts.tokens import node_token
from gainshare.capacity.models import LIVE, AgentStart, Host, Node, NodeState

BY_AGENT = "its agent drains it"
STARTS_PER_HOUR = 120  # of one host's agents: one that cannot live is not to fill the table


def take_heartbeat(*, host_id: UUID, beat: Heartbeat, seen_at: str) -> list[NodeOrder]:
    """Apply a heartbeat and return the nodes that the agent should run. ``seen_at`` is the agent's IP address.

    Raises Superseded for an older agent, StaleHeartbeat for an older heartbeat, WrongAddress, CapacityError.
    """
    now = timezone.now()
    with transaction.atomic():
        host = Host.objects.select_for_update().get(pk=host_id)
        if host.revoked_at is not None:
            raise Superseded("This host was revoked. End its nodes and the agent.", code="revoked")
        _take_over(host, beat, now)
        host.address = address_of(allowed=host.allowed_address, known=host.address, seen=seen_at)
        _note_host(host, beat, now)
        fault_point("capacity.heartbeat.before_nodes")
        _apply(host, beat, now)
        if beat.leaves_in_s is not None:
            note_departure(host, now + timedelta(seconds=beat.leaves_in_s))
        orders = _orders(host, now)
        fault_point("capacity.heartbeat.before_commit")
    fault_point("capacity.heartbeat.after_commit")
    return orders


def _take_over(host: Host, beat: Heartbeat, now: datetime) -> None:
    """Let an agent that never spoke before take the host over; refuse an older one, and an older heartbeat."""
    if host.agent == beat.agent:
        if beat.beat <= host.beat:
            raise StaleHeartbeat(f"A later heartbeat of this agent is known: number {host.beat}.")
        return
    if AgentStart.objects.filter(pk=beat.agent).exists():
        raise Superseded("A newer agent runs on this host. End your nodes and yourself.")
    an_hour_ago = now - timedelta(hours=1)
    if host.starts.filter(created_at__gt=an_hour_ago).count() >= STARTS_PER_HOUR:
        raise CapacityError(
            f"This host's agents started {STARTS_PER_HOUR} times within an hour. Look at its log; try again later.",
            code="too_many_starts",
        )
    AgentStart.objects.create(pk=beat.agent, host=host)
    host.agent, host.beat = beat.agent, 0
    if host.leaves_at is not None and host.leaves_at <= now:
        host.leaves_at = None  # it went, and is back
    fault_point("capacity.heartbeat.after_take_over")


def _note_host(host: Host, beat: Heartbeat, now: datetime) -> None:
    gap = timedelta(seconds=settings.HOST_LOST_S)
    if host.heard_since is None or host.last_seen_at is None or host.last_seen_at < now - gap:
        host.heard_since = now
    host.beat, host.last_seen_at = beat.beat, now
    host.n_devices, host.version = beat.n_devices, beat.version
    host.problem = _clean(beat.problem)
    host.save(
        update_fields=[
            *("agent", "beat", "heard_since", "last_seen_at", "leaves_at"),
            *("address", "n_devices", "version", "problem"),
        ]
    )


def _apply(host: Host, beat: Heartbeat, now: datetime) -> None:
    for ended in beat.ended:
        _end(Node.objects.filter(host=host, pk=ended.node), now, _clean(ended.reason))
    reported = _by_berth(beat)
    live = {(node.device, node.berth): node for node in Node.objects.filter(host=host, state__in=LIVE)}
    for place, report in reported.items():
        if report.node is None:
            held = Node.objects.filter(host=host, device=report.device, berth=report.berth, holds_device=True)
            held.update(holds_device=False)
        elif place in live and live[place].pk == report.node:
            _note_node(live.pop(place), report, host, now)
    for place, node in live.items():
        # What the agent was told to start and does not have yet is still to come; all else is gone.
        if node.state == NodeState.STARTING:
            continue
        if place in reported:
            _end(Node.objects.filter(pk=node.pk), now, "its agent no longer has it")
        elif beat.n_devices:  # an agent that offers devices names all that it knows
            Node.objects.filter(pk=node.pk, state__in=LIVE).update(
                state=NodeState.ENDED,
                ended_at=now,
                end_reason="its agent has no such device",
                holds_device=True,
            )


def _by_berth(beat: Heartbeat) -> dict[tuple[int, int], DeviceReport]:
    """Reports by device and berth. An agent that offers a device and names one berth says that the other is free."""
    reported = {(report.device, report.berth): report for report in beat.devices}
    for report in beat.devices:
        if report.device < beat.n_devices:
            reported.setdefault(
                (report.device, 1 - report.berth), DeviceReport(report.device, berth=1 - report.berth)
            )
    return reported


def _note_node(node: Node, report: DeviceReport, host: Host, now: datetime) -> None:
    same = Node.objects.filter(pk=node.pk)
    if report.state in (READY, HUNG) and report.port is not None:
        url = node_url(host.address, report.port)
        same.filter(state=NodeState.STARTING).update(state=NodeState.READY, ready_at=now, url=url)
        same.filter(state__in=LIVE).exclude(url=url).update(url=url)
    if report.state == HUNG:
        same.filter(state__in=LIVE, hung_at=None).update(hung_at=now)
    else:
        same.filter(state__in=LIVE).exclude(hung_at=None).update(hung_at=None)
    if report.state == DRAINING:
        same.filter(state__in=[NodeState.STARTING, NodeState.READY]).update(
            state=NodeState.DRAINING, draining_at=now, end_reason=BY_AGENT
        )
    if report.load is not None:
        load: dict[str, Any] = {
            "running": report.load.running,
            "waiting": report.load.waiting,
            "cache_use": report.load.cache_use,
        }
        same.filter(state__in=LIVE).update(load=load, load_at=now)


def _end(nodes: Any, now: datetime, reason: str) -> None:
    """End nodes whose process is gone. One that the site drained keeps the reason why it did."""
    drained = nodes.filter(state=NodeState.DRAINING).exclude(end_reason=BY_AGENT)
    drained.update(state=NodeState.ENDED, ended_at=now)
    nodes.filter(state__in=LIVE).update(state=NodeState.ENDED, ended_at=now, end_reason=reason)
    nodes.filter(holds_device=True).update(holds_device=False)


def _orders(host: Host, now: datetime) -> list[NodeOrder]:
    Node.objects.filter(host=host, state=NodeState.STARTING, told_at=None).update(told_at=now)
    return [
        NodeOrder(
            node=node.pk,
            device=node.device,
            berth=node.berth,
            model=node.model,
            tree=node.tree,
            token=node_token(node.pk),
            is_draining=node.state == NodeState.DRAINING,
        )
        for node in Node.objects.filter(host=host, state__in=LIVE)
        .exclude(told_at=None)
        .order_by("device", "berth")
    ]


def _clean(text: str) -> str:
    """A text that an agent sent, which may quote a node's output, safe to show."""
    return readable(text)[:MAX_TEXT]
