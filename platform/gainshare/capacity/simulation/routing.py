"""Which simulated node answers a request."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from gainshare.capacity.simulation.node import Node

# Chooses one of the ready nodes (never empty) for a request with these prefix blocks; None: wait in front for the first
# free slot. Arguments: nodes, blocks, seconds of reading a prompt of which so many blocks are cached, time, number of the
# request.
Router = Callable[[Sequence[Node], tuple[int, ...], Callable[[Node, int], float], float, int], Node | None]


def least_loaded(
    nodes: Sequence[Node],
    _blocks: tuple[int, ...],
    _prompt_s: Callable[[Node, int], float],
    _at_s: float,
    _number: int,
) -> Node | None:
    """The node with the smallest share of used slots."""
    best, least = None, 1.0
    for node in nodes:
        share = node.running / node.slots
        if share < least:
            best, least = node, share
    return best


def shortest(
    nodes: Sequence[Node],
    _blocks: tuple[int, ...],
    _prompt_s: Callable[[Node, int], float],
    at_s: float,
    _number: int,
) -> Node | None:
    """Of the nodes with a free slot, the one that reads a further prompt first; the least loaded among equals."""
    best, least = None, (math.inf, math.inf)
    for node in nodes:
        if node.running < node.slots:
            wait = (node.prompt_wait_s(at_s), node.running / node.slots)
            if wait < least:
                best, least = node, wait
    return best


def round_robin(
    nodes: Sequence[Node],
    _blocks: tuple[int, ...],
    _prompt_s: Callable[[Node, int], float],
    _at_s: float,
    number: int,
) -> Node | None:
    """Each node in turn, however much it has to do."""
    return nodes[number % len(nodes)]


def prefix_aware(
    nodes: Sequence[Node],
    blocks: tuple[int, ...],
    prompt_s: Callable[[Node, int], float],
    at_s: float,
    _number: int,
) -> Node | None:
    """The node with the least estimated time to the first token: prompts before it, and what of its own is not cached."""

    def estimate(node: Node) -> float:
        hits = node.cache.hits(blocks) if node.cache is not None else 0
        own = prompt_s(node, hits)
        behind = max(0, node.running + len(node.queue) + 1 - node.slots)
        return node.prompt_wait_s(at_s) + own + behind * own

    return min(nodes, key=estimate)


ROUTERS: Mapping[str, Router] = {
    "round robin": round_robin,
    "least-loaded": least_loaded,
    "prefix-aware": prefix_aware,
}
