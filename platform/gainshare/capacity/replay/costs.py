"""What users pay for a trace: the sum of real bills under each tariff. Pure; the same inputs give the same figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gainshare.capacity.replay.fleet import Fleet, Nodes
from gainshare.capacity.replay.hours import Instant, own_times
from gainshare.capacity.replay.tariffs import PARTS, flat, steps
from gainshare.capacity.replay.usage import usage_of
from gainshare.capacity.traces.requests import Trace
from gainshare.ledger.pricing import PriceTable, bill


@dataclass(frozen=True, slots=True)
class Costs:
    """A trace's cost in micro-credits under each tariff, the flat one first and the book last, and what was counted.

    ``by_item`` is the last tariff's sum of each line; ``tokens_by_hour`` counts prompt and output tokens by their hour.
    """

    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    by_step: tuple[int, ...]
    by_item: dict[str, int]
    tokens_by_hour: tuple[int, ...]
    queued_s: float

    @property
    def flat(self) -> int:
        return self.by_step[0]

    @property
    def total(self) -> int:
        return self.by_step[-1]

    @property
    def change(self) -> float:
        """Change of the cost against the flat tariff; -0.35 is 35 % less."""
        return self.share(self.total - self.flat)

    @property
    def changes(self) -> dict[str, float]:
        """The change by part, each against the tariff before it, as a share of the flat cost; empty without the steps."""
        if len(self.by_step) != len(PARTS) + 1:
            return {}
        pairs = zip(PARTS, self.by_step, self.by_step[1:], strict=False)
        return {part: self.share(after - before) for part, before, after in pairs}

    @property
    def hit_share(self) -> float:
        """Share of the prompts' tokens that came from a cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def share(self, microcredits: int) -> float:
        return microcredits / self.flat if self.flat else 0.0


@dataclass(slots=True)
class _Sums:
    by_step: list[int]
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    queued_s: float = 0.0
    by_item: Counter[str] = field(default_factory=Counter)
    by_hour: list[int] = field(default_factory=lambda: [0] * 24)


def replay(
    trace: Trace, *, nodes: Nodes, book: PriceTable, instant: Instant = own_times, by_part: bool = True
) -> Costs:
    """Bill each request of a trace, as served by ``nodes`` and arriving at ``instant``, under each tariff.

    Without ``by_part`` only under the flat one and the book, which is faster.
    """
    tariffs = steps(book) if by_part else (flat(book), book)
    fleet = Fleet(nodes, trace.block_tokens)
    sums = _Sums([0] * len(tariffs))
    for request in trace:
        served = fleet.serve(request)
        usage = usage_of(request, served, at_s=instant(request), bytes_per_token=nodes.bytes_per_token)
        for step, tariff in enumerate(tariffs):
            found = bill(usage, tariff)
            sums.by_step[step] += found.total
        for line in found.lines:
            sums.by_item[line.item] += line.amount
        sums.requests += 1
        sums.prompt_tokens += request.prompt_tokens
        sums.cached_tokens += served.cached_tokens
        sums.output_tokens += request.output_tokens
        sums.queued_s += served.queued_s
        if usage.prompt_hour is not None:
            sums.by_hour[usage.prompt_hour] += request.prompt_tokens
        for arrival in usage.arrivals:
            sums.by_hour[arrival.hour] += arrival.tokens
    return Costs(
        sums.requests,
        sums.prompt_tokens,
        sums.cached_tokens,
        sums.output_tokens,
        tuple(sums.by_step),
        dict(sums.by_item),
        tuple(sums.by_hour),
        sums.queued_s,
    )


def share_in(costs: Costs, hours: Sequence[int]) -> float:
    """Share of all tokens that arrived in these hours."""
    return sum(costs.tokens_by_hour[hour] for hour in hours) / max(1, sum(costs.tokens_by_hour))
