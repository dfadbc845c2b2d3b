"""Whether hosts were silent, or the site did not listen: nodes that still serve must not end for a restart of the site."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings

from gainshare.capacity.agent import probing
from gainshare.capacity.hosts.nodes import lose_silent_hosts
from gainshare.capacity.hosts.tokens import node_token
from gainshare.capacity.models import Host, Node, NodeState

PATIENCE = 6  # times HOST_LOST_S, while no host at all is heard
ASK_S = 3.0  # most seconds for all answers: a node that sends byte after byte has not answered by then


def was_listening(now: datetime) -> bool:
    """Whether heartbeats arrived during the whole of the last HOST_LOST_S, from any host."""
    since = now - timedelta(seconds=settings.HOST_LOST_S)
    return Host.objects.filter(heard_since__lte=since, last_seen_at__gt=since).exists()


def lose_hosts(now: datetime) -> int:
    """End the nodes of lost hosts, and return how many.

    A host that is silent while another one is heard is lost. While none is heard, the silence may be the site's, so the
    site asks the nodes themselves. One that answers is kept, however long its agent is silent. One that does not is
    marked as hung: it gets nothing new and scaling replaces it, but it ends only after PATIENCE times as long. Until
    then a heartbeat brings it back without another start.
    """
    if was_listening(now):
        return lose_silent_hosts(now)
    since = now - timedelta(seconds=settings.HOST_LOST_S)
    silent = Node.objects.filter(state=NodeState.READY, host__last_seen_at__lt=since).exclude(url="")
    answering = ask(list(silent.values_list("pk", "url")))
    silent.filter(pk__in=answering).exclude(hung_at=None).update(hung_at=None)
    silent.filter(hung_at=None).exclude(pk__in=answering).update(hung_at=now)
    return lose_silent_hosts(now, after_s=PATIENCE * settings.HOST_LOST_S, but=answering)


def ask(nodes: Sequence[tuple[UUID, str]]) -> set[UUID]:
    """Those of the nodes, given with their URLs, that answer the site within ASK_S."""
    return asyncio.run(_answering(nodes)) if nodes else set()


async def _answering(nodes: Sequence[tuple[UUID, str]]) -> set[UUID]:
    async with aclosing(probing.new_asker()) as asker:
        asked = {
            asyncio.create_task(probing.probe(asker, url.rstrip("/"), node_token(pk))): pk
            for pk, url in nodes
        }
        answered, late = await asyncio.wait(asked, timeout=ASK_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    return {asked[task] for task in answered if (probe := task.result()) is not None and probe.is_ready}
