"""Asks a node how it is. The node may run merged code, so its answer is bounded in time, size and range."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gainshare.capacity.agent.exchange import Asker, Direct, Question, TooLong, Unanswered
from gainshare.capacity.agent.protocol import MAX_REQUESTS, Load
from gainshare.capacity.agent.watching import Probe

STEP_S, LIMIT_S = 2.0, 10.0  # a node that sends byte after byte has not answered
MAX_BYTES = 64 * 1024
LOADING, DRAINING, FAILED, OK = "loading", "draining", "failed", "ok"


def new_asker() -> Direct:
    """What asks nodes."""
    return Direct(step_s=STEP_S, limit_s=LIMIT_S, by_environment=False)


async def probe(asker: Asker, url: str, token: str) -> Probe | None:
    """The node's health and load, or None if it does not answer in time or answers something else."""
    health = await _json(asker, f"{url}/health", token)
    status = health.get("status") if health is not None else None
    if status == LOADING:
        return Probe(is_ready=False)
    if status == FAILED:
        return Probe(is_ready=False, is_failed=True)
    if status not in (OK, DRAINING):
        return None
    stats = await _json(asker, f"{url}/stats", token)
    return Probe(
        is_ready=True, is_draining=status == DRAINING, load=None if stats is None else load_from(stats)
    )


def load_from(stats: Mapping[str, Any]) -> Load:
    """The load in a node's /stats; what is missing or impossible counts as 0."""
    held, blocks = _count(stats.get("kv_blocks_held")), _count(stats.get("kv_blocks"))
    return Load(
        running=min(_count(stats.get("running")), MAX_REQUESTS),
        waiting=min(_count(stats.get("waiting")), MAX_REQUESTS),
        cache_use=min(held / blocks, 1.0) if blocks else 0.0,
    )


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    return max(0, min(int(value), 2**53))


async def _json(asker: Asker, url: str, token: str) -> dict[str, Any] | None:
    try:
        status, body = await asker.ask(Question("GET", url, token, MAX_BYTES))
        document = json.loads(body) if status in (200, 503) else None
    except (Unanswered, TooLong, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
