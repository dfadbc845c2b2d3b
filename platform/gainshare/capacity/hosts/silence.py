"""Whether hosts were silent, or the site did not listen: nodes that still serve must not end for a restart of the site."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings

from gainshare.capacity.hosts.nodes import lose_silent_hosts
from gainshare.capacity.models import Host

PATIENCE = 6  # times HOST_LOST_S, while no host at all is heard


def was_listening(now: datetime) -> bool:
    """Whether heartbeats arrived during the whole of the last HOST_LOST_S, from any host."""
    since = now - timedelta(seconds=settings.HOST_LOST_S)
    return Host.objects.filter(heard_since__lte=since, last_seen_at__gt=since).exists()


def lose_hosts(now: datetime) -> int:
    """End the nodes of silent hosts, and return how many.

    While no host at all was heard, the silence may be the site's: then nodes are given PATIENCE times as long.
    """
    if was_listening(now):
        return lose_silent_hosts(now)
    return lose_silent_hosts(now, after_s=PATIENCE * settings.HOST_LOST_S)
