"""What one web process has to tell the others: gathered in memory, written a few times a second by `exchange`.

Only figures that may be lost with the process are here. Seats are written at once (`seats`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from datetime import datetime
from uuid import UUID

from gainshare.capacity.routing.analysis import N_BUCKETS, bucket_of
from gainshare.capacity.routing.load import step_of
from gainshare.capacity.routing.promises import Broken
from gainshare.capacity.routing.rates import Counted, total, window_of

MOST_BLOCKS = 20_000  # digests that wait to be written; more are dropped


@dataclass(frozen=True, slots=True)
class Served:
    """One request as its gateway saw it end. Times are milliseconds of the gateway's clock; None: not measured."""

    node: str
    model: str
    device_class: str
    ended_at: datetime
    busy_ms: int
    has_failed: bool = False
    prefill_tokens: int = 0
    prefill_ms: int | None = None
    decode_tokens: int = 0
    decode_ms: int | None = None

    def counted(self) -> Counted:
        """As sums over one request. A figure without its time, or without tokens, counts nothing."""
        has_prefill = self.prefill_ms is not None and self.prefill_tokens > 0 and self.prefill_ms >= 0
        has_decode = self.decode_ms is not None and self.decode_tokens > 0 and self.decode_ms >= 0
        return Counted(
            requests=0 if self.has_failed else 1,
            failures=1 if self.has_failed else 0,
            busy_ms=0 if self.has_failed else max(self.busy_ms, 1),
            prefill_tokens=self.prefill_tokens if has_prefill else 0,
            prefill_ms=max(self.prefill_ms or 0, 1) if has_prefill else 0,
            decode_tokens=self.decode_tokens if has_decode else 0,
            decode_ms=max(self.decode_ms or 0, 1) if has_decode else 0,
        )


WindowKey = tuple[str, str, str, datetime]  # node, model, class, beginning of the window


@dataclass(slots=True)
class Outbox:
    """Figures that were not written yet."""

    first_tokens: dict[UUID, datetime] = field(default_factory=dict)
    arrivals: Counter[tuple[str, datetime]] = field(default_factory=Counter)
    ended: Counter[tuple[str, datetime]] = field(default_factory=Counter)
    late: Counter[tuple[str, datetime]] = field(default_factory=Counter)
    slow: Counter[tuple[str, datetime]] = field(default_factory=Counter)
    windows: dict[WindowKey, Counted] = field(default_factory=dict)
    lengths: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    blocks: dict[tuple[str, int], None] = field(default_factory=dict)

    def arrived(self, model: str, at: datetime) -> None:
        self.arrivals[model, step_of(at)] += 1

    def kept_or_broke(self, model: str, at: datetime, what: Broken) -> None:
        """Note the end of a request that kept what is promised, or broke it."""
        self.ended[model, step_of(at)] += 1
        self.late[model, step_of(at)] += what.is_late
        self.slow[model, step_of(at)] += what.is_slow

    def answered(self, payer: str, endpoint: str, tokens: int) -> None:
        """Note the length of a whole answer."""
        self.lengths.setdefault((payer, endpoint), []).append(max(tokens, 0))

    def served(self, request: Served) -> None:
        key = (request.node, request.model, request.device_class, window_of(request.ended_at))
        self.windows[key] = total([self.windows.get(key, Counted()), request.counted()])

    def computed(self, node: str, digests: tuple[int, ...]) -> None:
        """Note that `node` has computed these beginnings of prompts."""
        for digest in digests:
            if len(self.blocks) < MOST_BLOCKS:
                self.blocks[node, digest] = None

    def is_empty(self) -> bool:
        return not any(getattr(self, part.name) for part in fields(self))

    def take_back(self, unwritten: Outbox) -> None:
        """Keep what could not be written, for the next time. Digests are dropped: they are of use for a moment only."""
        self.first_tokens = {**unwritten.first_tokens, **self.first_tokens}
        self.arrivals.update(unwritten.arrivals)
        self.ended.update(unwritten.ended)
        self.late.update(unwritten.late)
        self.slow.update(unwritten.slow)
        for key, counted in unwritten.windows.items():
            self.windows[key] = total([self.windows.get(key, Counted()), counted])
        for payer, lengths in unwritten.lengths.items():
            self.lengths.setdefault(payer, []).extend(lengths)


def buckets_of(lengths: list[int]) -> list[int]:
    """Numbers of answers in each bucket of `analysis.History`."""
    buckets = [0] * N_BUCKETS
    for tokens in lengths:
        buckets[bucket_of(tokens)] += 1
    return buckets
