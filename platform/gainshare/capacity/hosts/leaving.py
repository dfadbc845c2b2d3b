"""Notices of preemption: a host that will be taken away gets nothing new, and its nodes drain before it goes."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import F, Func, Value
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.capacity.hosts.registration import find_host, require_maintainer
from gainshare.capacity.models import Host, Node, NodeState

DRAIN_BEFORE_S = 30  # nodes that nothing has drained so far drain this long before their host goes


def announce(*, actor: User, name: str, in_s: int) -> Host:
    """Note that a host leaves in so many seconds; an earlier time that is known already stays. Raises NotFound."""
    require_maintainer(actor, "announce that a host leaves")
    note_departure(find_host(name), timezone.now() + timedelta(seconds=in_s))
    return find_host(name)


def withdraw(*, actor: User, name: str) -> Host:
    """Note that a host stays after all. Its nodes that drain already go on to their end. Raises NotFound."""
    require_maintainer(actor, "withdraw the notice of a host")
    Host.objects.filter(pk=find_host(name).pk).update(leaves_at=None)
    return find_host(name)


def note_departure(host: Host, at: datetime) -> None:
    """Keep the earliest time that anyone has named."""
    earliest = Func(F("leaves_at"), Value(at), function="LEAST")  # NULL is left out
    Host.objects.filter(pk=host.pk).update(leaves_at=earliest)


def drain_leaving(now: datetime) -> int:
    """Drain the nodes of hosts that go within DRAIN_BEFORE_S, and return how many."""
    soon = now + timedelta(seconds=DRAIN_BEFORE_S)
    serving = Node.objects.filter(state__in=[NodeState.STARTING, NodeState.READY], host__leaves_at__lte=soon)
    untold = serving.filter(state=NodeState.STARTING, told_at=None)
    reason = "its host leaves"
    ended = untold.update(state=NodeState.ENDED, ended_at=now, end_reason=reason)
    return ended + serving.update(state=NodeState.DRAINING, draining_at=now, end_reason=reason)
