"""The stated nodes: which one answers a request, what it finds in its cache, and when tokens arrive.

Each node computes one prompt after another; answers are decoded at a stated rate. That is enough for bills, which depend
on time by hours and by cache memory only; latency is the subject of the simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gainshare.capacity.replay.prefix_cache import ENGINE_BLOCK_TOKENS, CacheSize, PrefixCache
from gainshare.capacity.traces.requests import TraceRequest
from model.serving.metering.prefixes import MOST_RECORDS

ACCELERATOR_TOKENS = 400_000
MOST_PAID_TOKENS = MOST_RECORDS * ENGINE_BLOCK_TOKENS
"""Most tokens that a node's metering can bill as cached (model/serving/metering/prefixes.py)."""


@dataclass(frozen=True)
class Nodes:
    """What is stated of the nodes: their number, cache, rates in tokens/s, and bytes of cache a token takes.

    The defaults are an accelerator of 80 GB with a model of 8 billion parameters, 32 layers and 8 key/value heads of 128,
    in 16 bits: 400,000 tokens are 49 GiB.
    """

    number: int = 8
    cache_tokens: int | None = ACCELERATOR_TOKENS
    prefill_tokens_per_s: float = 10_000.0
    decode_tokens_per_s: float = 50.0
    bytes_per_token: int = 131_072

    def __post_init__(self) -> None:
        rates = (self.prefill_tokens_per_s, self.decode_tokens_per_s)
        if self.number < 1 or self.bytes_per_token < 0 or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(
                "there must be a node, rates above 0, and a number of bytes that is not negative"
            )

    def cache(self) -> CacheSize:
        """Cache of a node, no larger than what the protected metering remembers as paid for."""
        return CacheSize(None if self.cache_tokens is None else min(self.cache_tokens, MOST_PAID_TOKENS))

    @property
    def says(self) -> str:
        """The nodes in words."""
        if self.cache_tokens is None:
            cache = "a cache without bound"
        elif self.cache_tokens > MOST_PAID_TOKENS:
            cache = (
                f"{self.cache_tokens:,} cached tokens each, of which metering remembers {MOST_PAID_TOKENS:,}"
            )
        else:
            cache = f"{self.cache_tokens:,} cached tokens each"
        return (
            f"{self.number} nodes with {cache}, {self.prefill_tokens_per_s:g} prompt tokens/s, "
            f"{self.decode_tokens_per_s:g} tokens/s an answer, {self.bytes_per_token:,} bytes a token"
        )


@dataclass(frozen=True, slots=True)
class Served:
    """How a request was served. Times are seconds after its arrival; ``first_token_s`` includes ``queued_s``."""

    cached_tokens: int
    queued_s: float
    first_token_s: float
    token_s: float


class Fleet:
    """The nodes of one replay. A request goes where its first token is expected first."""

    def __init__(self, nodes: Nodes, unit_tokens: int) -> None:
        self._nodes = nodes
        self._caches = [PrefixCache(nodes.cache(), unit_tokens) for _ in range(nodes.number)]
        self._busy_until_s = [0.0] * nodes.number

    def serve(self, request: TraceRequest) -> Served:
        """Serve the next request; they come in the order of their arrival."""
        chosen = min(range(self._nodes.number), key=lambda node: (self._expected_s(node, request), node))
        queued_s = self._backlog_s(chosen, request)
        cached = self._caches[chosen].use(request)
        prefill_s = (request.prompt_tokens - cached) / self._nodes.prefill_tokens_per_s
        self._busy_until_s[chosen] = request.at_s + queued_s + prefill_s
        return Served(cached, queued_s, queued_s + prefill_s, 1 / self._nodes.decode_tokens_per_s)

    def _backlog_s(self, node: int, request: TraceRequest) -> float:
        return max(0.0, self._busy_until_s[node] - request.at_s)

    def _expected_s(self, node: int, request: TraceRequest) -> float:
        fresh = request.prompt_tokens - self._caches[node].find(request)
        return self._backlog_s(node, request) + fresh / self._nodes.prefill_tokens_per_s
