"""Prefix cache of one node: whole blocks, the least recently used evicted first, shared within an account only.

A unit is a block of the trace, which holds several of the engine's blocks; hits count whole units. What a request leaves
beyond its units (the rest of its prompt, and its answer) takes space as well until it is evicted, though no request of
the trace can find it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from gainshare.capacity.traces.requests import TraceRequest

ENGINE_BLOCK_TOKENS = 16
"""Tokens of a block of the installed engine (model/serving/executors, `BLOCK_TOKENS`)."""


@dataclass(frozen=True, slots=True)
class CacheSize:
    """Tokens of a cache, in whole engine blocks; None is unbounded."""

    tokens: int | None
    block_tokens: int = ENGINE_BLOCK_TOKENS

    def __post_init__(self) -> None:
        if self.block_tokens < 1 or (self.tokens is not None and self.tokens < 0):
            raise ValueError("a cache has no fewer than 0 tokens, in blocks of at least one")

    @property
    def blocks(self) -> int | None:
        return None if self.tokens is None else self.tokens // self.block_tokens


class PrefixCache:
    """Blocks of one node. ``unit_tokens`` is the trace's block; 0 where the trace says nothing of prefixes."""

    def __init__(self, size: CacheSize, unit_tokens: int) -> None:
        if unit_tokens % size.block_tokens:
            raise ValueError(
                f"the trace's blocks of {unit_tokens} tokens are no whole number of blocks of {size.block_tokens}"
            )
        self._size = size
        self._unit_tokens = unit_tokens
        self._unit_blocks = unit_tokens // size.block_tokens
        self._held: OrderedDict[tuple[int, int], int] = OrderedDict()  # engine blocks by account and unit
        self._n_blocks = 0  # engine blocks that are held
        self._n_rests = 0

    @property
    def tokens(self) -> int:
        """Tokens in whole engine blocks that are kept."""
        return self._n_blocks * self._size.block_tokens

    def find(self, request: TraceRequest) -> int:
        """Tokens at the beginning of the prompt that are cached. The prompt's last token is always computed."""
        return self._unit_tokens * len(self._found(request))

    def use(self, request: TraceRequest) -> int:
        """Serve a request: what :meth:`find` says, and the cache is left as the request leaves it."""
        found = self._found(request)
        units = [(request.account, block) for block in request.blocks]
        # An answer's last token is never computed, so nothing of it is kept.
        tokens = request.prompt_tokens + max(0, request.output_tokens - 1)
        whole, partial = divmod(tokens, self._size.block_tokens)
        # The end of a sequence is released first, so that its beginning is evicted last.
        self._n_rests += 1
        self._hold((-1, self._n_rests), whole - len(units) * self._unit_blocks)
        for unit in reversed(units):
            self._hold(unit, self._unit_blocks)
        self._evict(spare=1 if partial else 0)
        return self._unit_tokens * len(found)

    def _found(self, request: TraceRequest) -> Sequence[int]:
        if not self._unit_tokens:
            return ()
        most = min(len(request.blocks), max(0, request.prompt_tokens - 1) // self._unit_tokens)
        for index in range(most):
            if (request.account, request.blocks[index]) not in self._held:
                return request.blocks[:index]
        return request.blocks[:most]

    def _hold(self, unit: tuple[int, int], blocks: int) -> None:
        if blocks <= 0:
            return
        self._n_blocks += blocks - self._held.pop(unit, 0)
        self._held[unit] = blocks

    def _evict(self, *, spare: int) -> None:
        """Evict until all fits, and ``spare`` blocks that are used for a moment only."""
        most = self._size.blocks
        while most is not None and self._n_blocks + spare > most and self._held:
            _, blocks = self._held.popitem(last=False)
            self._n_blocks -= blocks
