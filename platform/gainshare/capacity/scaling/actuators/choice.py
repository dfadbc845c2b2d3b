"""Which nodes go when there are more than wanted. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that is starting or ready. ``busy`` counts requests that it has, ``price`` is that of a device-hour."""

    id: UUID
    device_class: str
    price: int
    is_ready: bool
    is_leaving: bool
    busy: int
    created_at: datetime


def to_drain(
    nodes: Sequence[Candidate], wanted: Mapping[str, int], payable: Mapping[str, int] | None = None
) -> list[Candidate]:
    """The nodes above the wanted counts, in the order in which to drain them.

    Of one class, nodes that are still starting go first, then those with a notice of preemption, then the emptiest. The
    dearest class comes first. Ready nodes stay while wanted ones are still starting, and as long as fewer than the
    wanted number would be left: what replaces a node is ready before it goes. The exception are nodes above ``payable``,
    counts that the day's budget still pays (None: no limit).
    """
    surplus = [node for name in _classes(nodes) for node in _surplus(nodes, name, wanted.get(name, 0))]
    may_go = _replaced(nodes, [node for node in nodes if node not in surplus], wanted)
    left = Counter(node.device_class for node in nodes)
    chosen = []
    for node in surplus:
        is_unpaid = payable is not None and left[node.device_class] > payable.get(node.device_class, 0)
        if not node.is_ready or is_unpaid or may_go > 0:
            chosen.append(node)
            left[node.device_class] -= 1
            may_go -= node.is_ready
    return chosen


def _replaced(nodes: Sequence[Candidate], kept: Sequence[Candidate], wanted: Mapping[str, int]) -> int:
    """How many ready nodes may go because others are ready in their place."""
    ready = sum(node.is_ready for node in nodes)
    if not all(node.is_ready for node in kept):
        return 0
    there = Counter(node.device_class for node in kept)
    is_complete = all(there[name] >= count for name, count in wanted.items())
    return ready if is_complete else ready - sum(wanted.values())


def _classes(nodes: Sequence[Candidate]) -> list[str]:
    """Names of the nodes' classes, the dearest first."""
    prices = {node.device_class: node.price for node in nodes}
    return sorted(prices, key=lambda name: (-prices[name], name))


def _surplus(nodes: Sequence[Candidate], device_class: str, wanted: int) -> list[Candidate]:
    here = [node for node in nodes if node.device_class == device_class]
    newest_first = sorted(here, key=lambda node: node.created_at, reverse=True)
    # Sorting keeps the order of equals.
    by_use = sorted(newest_first, key=lambda node: (node.is_ready, not node.is_leaving, node.busy))
    return by_use[: max(len(here) - wanted, 0)]
