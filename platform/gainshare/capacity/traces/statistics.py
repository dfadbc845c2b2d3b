"""Statistics of a trace: lengths, and how much of its prompts was sent before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gainshare.capacity.traces.requests import Trace

QUANTILES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Quantiles by percent, mean and maximum, in tokens."""

    quantiles: dict[int, int]
    mean: float
    most: int


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """``reusable_share`` is the share of all prompt tokens in whole blocks that the same account sent before."""

    requests: int
    duration_s: float
    prompt: Lengths
    output: Lengths
    reusable_share: float


def statistics(trace: Trace) -> TraceStatistics:
    """Statistics of a whole trace, which must have at least one request."""
    prompts: list[int] = []
    outputs: list[int] = []
    sent: set[tuple[int, int]] = set()
    reusable = 0
    duration = 0.0
    for request in trace:
        prompts.append(request.prompt_tokens)
        outputs.append(request.output_tokens)
        duration = request.at_s
        found = 0
        for block in request.blocks:
            if (request.account, block) not in sent:
                break
            found += 1
        reusable += found * trace.block_tokens
        sent.update((request.account, block) for block in request.blocks[found:])
    if not prompts:
        raise ValueError("the trace has no requests")
    share = reusable / max(1, sum(prompts))
    return TraceStatistics(len(prompts), duration, lengths(prompts), lengths(outputs), share)


def lengths(tokens: Iterable[int]) -> Lengths:
    """Quantiles of some lengths, at least one."""
    ordered = sorted(tokens)
    last = len(ordered) - 1
    quantiles = {percent: ordered[min(last, percent * len(ordered) // 100)] for percent in QUANTILES}
    return Lengths(quantiles, sum(ordered) / len(ordered), ordered[-1])
