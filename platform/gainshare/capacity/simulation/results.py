"""What a simulation found: cost, latencies, and the decisions that were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Decision:
    """A change of the number of nodes wanted: seconds since the start, nodes of each class, and the policy's reason."""

    at_s: float
    nodes: Mapping[str, int]
    reason: str


@dataclass(frozen=True)
class Outcome:
    """Costs are micro-credits, times are seconds, arrays have one entry for each request.

    ``token_s`` is the time for each token of an answer behind its first one. ``cut`` counts requests that lost their node
    before their end and were begun again. ``timeline`` has rows (at_s, nodes that cost, in progress, waiting).
    """

    policy: str
    cost: int
    node_hours: Mapping[str, float]
    first_token_s: NDArray[np.float64]
    token_s: NDArray[np.float64]
    cut: int
    prefix_tokens: int
    prompt_tokens: int
    decisions: tuple[Decision, ...]
    timeline: NDArray[np.float64]

    @property
    def first_token_p99_s(self) -> float:
        return percentile(self.first_token_s, 99)

    @property
    def token_p99_s(self) -> float:
        return percentile(self.token_s, 99)

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that were in the cache of the node that answered."""
        return self.prefix_tokens / max(1, self.prompt_tokens)

    @property
    def mean_nodes(self) -> float:
        hours = float(self.timeline[-1, 0]) / 3600 if len(self.timeline) else 0.0
        return sum(self.node_hours.values()) / hours if hours else 0.0

    def meets(self, first_token_s: float, token_s: float) -> bool:
        return self.first_token_p99_s <= first_token_s and self.token_p99_s <= token_s


def percentile(values: NDArray[np.float64], share: float) -> float:
    """The value that ``share`` per cent of all do not pass; 0 of none."""
    return float(np.percentile(values, share, method="higher")) if len(values) else 0.0
