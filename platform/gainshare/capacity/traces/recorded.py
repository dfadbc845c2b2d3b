"""A trace that is held in memory as it was read from a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gainshare.capacity.traces.requests import TraceRequest

MAX_TOKENS = 10_000_000
"""Most tokens of a prompt or an answer."""


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """Requests by the time of their arrival. ``block_tokens`` is 0 where the trace says nothing of prefixes."""

    name: str
    digest: str
    block_tokens: int
    requests: tuple[TraceRequest, ...]

    def __iter__(self) -> Iterator[TraceRequest]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)
