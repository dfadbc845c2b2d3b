"""Choice among nodes: the least cost, with two random choices among those that the estimates cannot tell apart. Pure.

The cost of a node is its estimated time to first token, plus the price of its class in seconds: little for a request of
normal priority, much for one of low priority, which therefore goes to cheap and preemptible classes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gainshare.capacity.routing.estimates import Estimate, NodeFacts

NORMAL_PRICE_S = 0.1  # seconds that the dearest class must save, against a free one, to be worth its price
LOW_PRICE_S = 30.0
MISSED_PRICE = 100.0  # seconds of cost for each second that a node is expected to miss the deadline by
PREEMPTIBLE_S = 5.0  # seconds that a request of low priority waits longer for a preemptible class


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a node for one request, in seconds."""

    key: str
    seconds: float
    error_s: float


def costs(
    nodes: Iterable[NodeFacts],
    estimates: Mapping[str, Estimate],
    *,
    priority: int = 0,
    deadline_s: float | None = None,
) -> tuple[Cost, ...]:
    """Costs of `nodes`, the least first; ties by key. Estimates that are no numbers cost infinitely much.

    Nodes that are expected to miss the deadline cost what they exceed it by, at `MISSED_PRICE` for each second.
    """
    every = list(nodes)
    dearest = max((node.price for node in every), default=0)
    weighed = []
    for node in every:
        estimate = estimates[node.key]
        seconds = estimate.first_token_s + _price_s(node, dearest, priority)
        error = estimate.error_s
        if deadline_s is not None:
            seconds += MISSED_PRICE * max(estimate.first_token_s - deadline_s, 0.0)
        if not (math.isfinite(seconds) and math.isfinite(error) and seconds >= 0 and error >= 0):
            seconds, error = math.inf, 0.0
        weighed.append(Cost(node.key, seconds, error))
    return tuple(sorted(weighed, key=lambda cost: (cost.seconds, cost.key)))


def preference(
    nodes: Iterable[NodeFacts],
    estimates: Mapping[str, Estimate],
    *,
    seed: int,
    priority: int = 0,
    deadline_s: float | None = None,
) -> tuple[str, ...]:
    """Keys of `nodes`, the preferred one first. The same arguments give the same order.

    Of the nodes whose cost may be as low as the least one, two are drawn; the cheaper of them is preferred. So web
    processes that decide at the same moment do not all choose the same node, and no node gets more than its share of
    uncertain choices, however fast it seems.
    """
    ordered = costs(nodes, estimates, priority=priority, deadline_s=deadline_s)
    if not ordered:
        return ()
    best = ordered[0]
    close = [cost for cost in ordered if cost.seconds - cost.error_s <= best.seconds + best.error_s]
    if len(close) > 1 and math.isfinite(best.seconds):
        best = min(random.Random(seed).sample(close, 2), key=lambda cost: cost.seconds)
    return (best.key, *(cost.key for cost in ordered if cost.key != best.key))


def _price_s(node: NodeFacts, dearest: int, priority: int) -> float:
    share = max(node.price, 0) / dearest if dearest > 0 else 0.0
    if priority >= 0:
        return share * NORMAL_PRICE_S
    return share * LOW_PRICE_S + (0.0 if node.is_preemptible else PREEMPTIBLE_S)
