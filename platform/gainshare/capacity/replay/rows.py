"""The figures of a replay, in the one shape of all figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.report import Row
from gainshare.capacity.replay.backing import discounts
from gainshare.capacity.replay.costs import Costs, share_in
from gainshare.capacity.replay.fleet import Nodes
from gainshare.capacity.replay.tariffs import FIRST_CACHED_INPUT
from gainshare.capacity.traces.statistics import Lengths, TraceStatistics
from gainshare.ledger.pricing import MILLION, PriceTable, hour_factors

TARGET = -0.35
CLAIM = "users' cost against flat per-token pricing"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One trace: what it is, and its cost at the stated nodes and at others.

    ``by_cache`` is keyed by the cache of all nodes together in tokens, None for an unbounded one. ``first_prices`` is the
    cost with the cached input's price of a new site. ``hours`` says where the hours came from.
    """

    name: str
    digest: str
    has_prefixes: bool
    statistics: TraceStatistics
    costs: Costs
    first_prices: Costs
    by_cache: dict[int | None, Costs]
    hours: str


def rows(replayed: Sequence[Replayed], *, nodes: Nodes, book: PriceTable) -> list[Row]:
    """All rows: each trace's, then the worst trace and what backs each discount."""
    found = [row for each in replayed for row in trace_rows(each, nodes=nodes, book=book)]
    return [*found, *_worst(replayed), *_backing(book), _book(book)]


def trace_rows(each: Replayed, *, nodes: Nodes, book: PriceTable) -> Iterator[Row]:
    """The rows of one trace. The target counts only where there are prefixes."""
    costs = each.costs
    yield Row(
        f"{each.name}: {CLAIM}",
        _percent(costs.change),
        "%",
        f"{TARGET:.0%}" if each.has_prefixes else None,
        costs.change <= TARGET if each.has_prefixes else None,
        f"{costs.requests:,} requests, {nodes.says}; flat {costs.flat:,}, billed {costs.total:,} micro-credits"
        + ("" if each.has_prefixes else "; the trace says nothing of prefixes, so no token is cached"),
    )
    changes = costs.changes
    for part, change in changes.items():
        yield _figure(f"{each.name}: part of {part}", _percent(change), _part(part, each, book))
    subsidies = [discount for discount in discounts(book) if discount.is_subsidy]
    without = ", ".join(
        one.part if one.backed == 0 else f"{one.unbacked:.0%} of {one.part}" for one in subsidies
    )
    yield _figure(
        f"{each.name}: without subsidies",
        _percent(costs.change - sum(changes[one.part] * one.unbacked for one in subsidies)),
        f"without {without}" if subsidies else "there are none",
    )
    yield _figure(
        f"{each.name}: at a new site's price of cached input",
        _percent(each.first_prices.change),
        f"{FIRST_CACHED_INPUT:,} micro-credits for a million cached tokens, all else equal",
    )
    for tokens, other in each.by_cache.items():
        yield _figure(
            f"{each.name}: with a cache {'without bound' if tokens is None else f'of {tokens:,} tokens'}",
            _percent(other.change),
            f"on {nodes.number} nodes together: {other.hit_share:.1%} of the prompts' tokens are cached",
        )
    yield from _facts(each)


def _part(part: str, each: Replayed, book: PriceTable) -> str:
    costs = each.costs
    match part:
        case "cache":
            return f"{costs.hit_share:.1%} of the prompts' tokens are cached, at {book.cached_input:,} instead of {book.fresh_input:,}"
        case "memory":
            return f"tiers {list(map(list, book.memory_tiers))}, at most {book.memory_share_ppm / MILLION:.1%} of the tokens' price"
        case "long context":
            return f"on tokens above {book.long_above:,} only"
        case _:
            factors = hour_factors(book)
            cheap = [hour for hour in range(24) if factors[hour] < MILLION]
            return f"{share_in(costs, cheap):.1%} of the tokens in {len(cheap)} cheaper hours; {each.hours}"


def _facts(each: Replayed) -> Iterator[Row]:
    found = each.statistics
    length = f"{found.duration_s:.0f} s, sha256 {each.digest[:16]}"
    yield _figure(f"{each.name}: trace", found.requests, length, unit="requests")
    for what, lengths in (("prompt", found.prompt), ("output", found.output)):
        yield _figure(
            f"{each.name}: {what} tokens", round(lengths.mean, 1), _quantiles(lengths), unit="on average"
        )
    yield _figure(
        f"{each.name}: reusable prompt tokens",
        _percent(found.reusable_share),
        "sent before by the same account, in whole blocks, with a cache without bound",
    )
    hours = each.costs.tokens_by_hour
    by_hour = " ".join(f"{tokens / max(1, sum(hours)):.1%}" for tokens in hours)
    used = sum(1 for tokens in hours if tokens)
    yield _figure(
        f"{each.name}: hours", used, f"tokens from 0 to 23 UTC: {by_hour}; {each.hours}", unit="hours"
    )


def _quantiles(lengths: Lengths) -> str:
    quantiles = ", ".join(f"{percent} % {tokens:,}" for percent, tokens in lengths.quantiles.items())
    return f"{quantiles}, most {lengths.most:,}"


def _worst(replayed: Sequence[Replayed]) -> Iterator[Row]:
    """The trace with prefixes that saves least."""
    eligible = [each for each in replayed if each.has_prefixes]
    if not eligible:
        return
    worst = max(eligible, key=lambda each: each.costs.change)
    yield Row(
        f"worst trace: {CLAIM}",
        _percent(worst.costs.change),
        "%",
        f"{TARGET:.0%}",
        worst.costs.change <= TARGET,
        f"{worst.name}, of {len(eligible)} with prefixes",
    )


def _backing(book: PriceTable) -> Iterator[Row]:
    for discount in discounts(book):
        yield _figure(f"discount of {discount.part}", _percent(discount.size), discount.says)


def _book(book: PriceTable) -> Row:
    how = f"for a million tokens; all terms: {json.dumps(asdict(book))}"
    return _figure("price book: fresh input", book.fresh_input, how, unit="micro-credits")


def _figure(name: str, value: float | int, how: str, *, unit: str = "%") -> Row:
    """A row without a target."""
    return Row(name, value, unit, None, None, how)


def _percent(share: float) -> float:
    return round(100 * share, 1)
