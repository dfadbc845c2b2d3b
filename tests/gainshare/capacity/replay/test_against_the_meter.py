"""A replayed request has the usage that the gateway's own meter counts, chunk by chunk."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.replay.fleet import Served
from gainshare.capacity.replay.tariffs import BOOK
from gainshare.capacity.replay.usage import usage_of
from gainshare.capacity.traces.requests import TraceRequest
from gainshare.gateway.arrivals import Moment
from gainshare.gateway.cache_memory import CacheShape
from gainshare.gateway.metering import Meter
from gainshare.gateway.services import price_bill
from gainshare.ledger.pricing import bill

MS_PER_S = 1000


def chunk(request: TraceRequest, served: Served, n_tokens: int) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
        "usage": {
            "prompt_tokens": request.prompt_tokens,
            "completion_tokens": n_tokens,
            "prompt_tokens_details": {"cached_tokens": served.cached_tokens},
            "gainshare": {"queued_ms": round(served.queued_s * MS_PER_S)},
        },
    }


@given(
    cached_tokens=st.integers(0, 40_000),
    fresh_tokens=st.integers(1, 5_000),
    output_tokens=st.integers(1, 60),
    at_s=st.integers(0, 200_000),
    queued_ms=st.integers(0, 10_000),
    prefill_ms=st.integers(0, 10_000),
    token_ms=st.sampled_from([1, 20, 60_000, 500_000]),
    bytes_per_token=st.sampled_from([512, 131_072]),
)
def test_the_meter_counts_what_the_replay_bills(
    cached_tokens: int,
    fresh_tokens: int,
    output_tokens: int,
    at_s: int,
    queued_ms: int,
    prefill_ms: int,
    token_ms: int,
    bytes_per_token: int,
) -> None:
    request = TraceRequest(0.0, cached_tokens + fresh_tokens, output_tokens)
    first_ms = queued_ms + prefill_ms
    served = Served(cached_tokens, queued_ms / MS_PER_S, first_ms / MS_PER_S, token_ms / MS_PER_S)
    meter = Meter(
        prompt_tokens=request.prompt_tokens, max_tokens=output_tokens, cache=CacheShape(bytes_per_token)
    )
    for index in range(output_tokens):
        passed_ms = first_ms + index * token_ms
        hour = (at_s + passed_ms // MS_PER_S) // 3600 % 24
        meter.see(chunk(request, served, index + 1), Moment(hour, passed_ms * 10**6))

    usage = usage_of(request, served, at_s=at_s, bytes_per_token=bytes_per_token)
    metered = meter.metered
    assert (usage.cached_tokens, usage.output_tokens) == (metered.cached_tokens, metered.completion_tokens)
    assert (usage.prompt_hour, usage.arrivals) == (metered.prompt_hour, metered.arrivals)
    assert usage.kv_byte_ms == metered.kv_byte_ms
    assert bill(usage, BOOK) == price_bill(metered, BOOK)
