"""Replay traces at the stated nodes and at others, with hours that are their own or drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gainshare.capacity.replay.costs import Costs, replay
from gainshare.capacity.replay.fleet import Nodes
from gainshare.capacity.replay.hours import Instant, drawn_times, own_times
from gainshare.capacity.replay.rows import Replayed
from gainshare.capacity.replay.tariffs import BOOK, FIRST_CACHED_INPUT
from gainshare.capacity.traces.arrivals import Rates
from gainshare.capacity.traces.requests import Trace
from gainshare.capacity.traces.statistics import statistics
from gainshare.ledger.pricing import PriceTable

DAY_S = 86_400.0
TIMES_OF_CACHE = (0.25, 2, 4, 8)
"""Other caches that are replayed, as multiples of the stated one; and one without bound."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``rates`` are those that hours are drawn from, and ``rates_name`` where they come from."""

    rates: Rates
    rates_name: str
    seed: int = 0
    nodes: Nodes = field(default_factory=Nodes)
    book: PriceTable = BOOK
    has_other_caches: bool = True


def replay_trace(
    trace: Trace, settings: Settings, *, say: Callable[[str], None] = lambda _: None
) -> Replayed:
    """Replay one trace. Raises ValueError for one without requests."""
    facts = statistics(trace)
    has_own_hours = facts.duration_s >= DAY_S * 0.9
    hours = (
        "the trace's own times, from midnight UTC"
        if has_own_hours
        else f"hours drawn from {settings.rates_name}, seed {settings.seed}"
    )

    def costs(nodes: Nodes, book: PriceTable, *, by_part: bool = False) -> Costs:
        # Fresh draws for each: the same request has the same hour in all of them.
        instant: Instant = own_times if has_own_hours else drawn_times(settings.rates, settings.seed)
        return replay(trace, nodes=nodes, book=book, instant=instant, by_part=by_part)

    say(f"{trace.name}: {facts.requests:,} requests")
    stated = costs(settings.nodes, settings.book, by_part=True)
    first = costs(settings.nodes, replace(settings.book, cached_input=FIRST_CACHED_INPUT))
    by_cache: dict[int | None, Costs] = {}
    for nodes in _other_caches(settings) if trace.block_tokens else ():
        total = None if nodes.cache_tokens is None else nodes.cache_tokens * nodes.number
        say(f"{trace.name}: a cache {'without bound' if total is None else f'of {total:,} tokens'}")
        by_cache[total] = costs(nodes, settings.book)
    return Replayed(trace.name, trace.digest, bool(trace.block_tokens), facts, stated, first, by_cache, hours)


def _other_caches(settings: Settings) -> Sequence[Nodes]:
    nodes = settings.nodes
    if not settings.has_other_caches or nodes.cache_tokens is None:
        return ()
    sizes = [int(nodes.cache_tokens * times) for times in TIMES_OF_CACHE]
    return [*(replace(nodes, cache_tokens=size) for size in sizes), replace(nodes, cache_tokens=None)]
