"""The gateway's windows of the nodes that execute one tree: requests that were answered, and the pace of their work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from gainshare.capacity.deployments.health import Outcomes
from gainshare.capacity.deployments.slowness import Pace, PromptTime, TokenTime, decode_pace, prefill_pace
from gainshare.capacity.hosts.nodes import OF_ITS_HOST
from gainshare.capacity.models import Deployment, Node, NodeWindow
from gainshare.capacity.routing.rates import WINDOW_S

WINDOW = timedelta(seconds=WINDOW_S)
DECODE, PREFILL = "decode", "prefill"
Paces = Mapping[datetime, Pace | None]


@dataclass(frozen=True, slots=True)
class Clocked:
    """Nanoseconds that a canary found for one of its trees: a token by batch size, and a prompt by its length."""

    decode: Mapping[int, int]
    prefill: Mapping[int, int]

    @classmethod
    def of(cls, deployment: Deployment, side: str) -> Clocked:
        """For the "candidate" or the "served" tree of the deployment's canary."""
        return cls(
            cls._times(deployment.result, "batch_times", "batch", side),
            cls._times(deployment.result, "prefill_times", "prompt_tokens", side),
        )

    @staticmethod
    def _times(result: Mapping[str, Any], name: str, key: str, side: str) -> dict[int, int]:
        """At least one nanosecond: a host may have sent anything."""
        return {int(row[key]): max(int(row[f"{side}_ns"]), 1) for row in result.get(name) or ()}

    def has(self, line: str) -> bool:
        return bool(self.decode) and (line == DECODE or bool(self.prefill))


def windows_of(model: str, tree: str, since: datetime, until: datetime) -> QuerySet[NodeWindow]:
    """Windows between these times of the model's nodes with this tree. Nodes whose host went say nothing of the tree."""
    nodes = Node.objects.filter(model=model, tree=tree, ready_at__isnull=False)
    nodes = nodes.exclude(end_reason__startswith=OF_ITS_HOST)
    keys = [str(pk) for pk in nodes.exclude(ended_at__lt=since).values_list("pk", flat=True)]
    return NodeWindow.objects.filter(model=model, node__in=keys, window_at__gte=since, window_at__lte=until)


def outcomes(windows: QuerySet[NodeWindow]) -> Outcomes:
    rows = list(windows.values_list("requests", "failures"))
    return Outcomes(sum(answered for answered, _ in rows), sum(failed for _, failed in rows))


def paces(windows: QuerySet[NodeWindow], clocked: Clocked) -> dict[str, Paces]:
    """The pace of each window by line, oldest first, of all nodes together; of the lines that the canary clocked.

    A node's mean number of answers at once is their time over the window's.
    """
    tokens: dict[datetime, list[TokenTime]] = defaultdict(list)
    prompts: dict[datetime, list[PromptTime]] = defaultdict(list)
    columns = (
        "window_at",
        "requests",
        "busy_ms",
        "decode_tokens",
        "decode_ms",
        "prefill_tokens",
        "prefill_ms",
    )
    for at, requests, busy_ms, n_decoded, decode_ms, n_read, prefill_ms in windows.order_by(
        "window_at"
    ).values_list(*columns):
        batch = busy_ms / (1000 * WINDOW_S)
        tokens[at].append(TokenTime(n_decoded, decode_ms, batch))
        prompts[at].append(PromptTime(requests, n_read, prefill_ms, batch))
    found: dict[str, Paces] = {}
    if clocked.has(DECODE):
        found[DECODE] = {at: decode_pace(nodes, clocked.decode) for at, nodes in tokens.items()}
    if clocked.has(PREFILL):
        found[PREFILL] = {
            at: prefill_pace(nodes, clocked.prefill, clocked.decode) for at, nodes in prompts.items()
        }
    return found
