"""Usage of a request as the gateway would count it: tokens, hours of arrival, and KV byte-milliseconds."""

from __future__ import annotations

import math

from gainshare.capacity.replay.fleet import Served
from gainshare.capacity.replay.hours import hour_of
from gainshare.capacity.traces.requests import TraceRequest
from gainshare.ledger.pricing import Arrival, Usage

HOUR_S = 3600.0
NS_PER_S = 10**9
NS_PER_MS = 10**6


def usage_of(request: TraceRequest, served: Served, *, at_s: float, bytes_per_token: int) -> Usage:
    """Usage of a request that arrived at ``at_s`` (UTC seconds)."""
    first_s = at_s + served.first_token_s
    return Usage(
        cached_tokens=served.cached_tokens,
        fresh_tokens=request.prompt_tokens - served.cached_tokens,
        output_tokens=request.output_tokens,
        prompt_hour=hour_of(first_s),
        arrivals=arrivals_by_hour(first_s, request.output_tokens, served.token_s),
        kv_byte_ms=kv_byte_ms(request, served, bytes_per_token),
    )


def arrivals_by_hour(first_s: float, tokens: int, token_s: float) -> tuple[Arrival, ...]:
    """Tokens of an answer by the hour of their arrival: the first at ``first_s``, then one each ``token_s``."""
    counted: list[Arrival] = []
    done = 0
    while done < tokens:
        at = first_s + done * token_s
        to_next_hour_s = HOUR_S - at % HOUR_S
        more = min(tokens - done, max(1, math.ceil(to_next_hour_s / token_s)))
        counted.append(Arrival(hour_of(at), 0, more))
        done += more
    return tuple(counted)


def kv_byte_ms(request: TraceRequest, served: Served, bytes_per_token: int) -> int:
    """Bytes times milliseconds, as the gateway's meter integrates them, rounded down.

    The prompt is held from its start on a node to the answer's last token, each token of the answer from its arrival.
    Nothing is held while the request is queued.
    """
    prefill_ns = round((served.first_token_s - served.queued_s) * NS_PER_S)
    decode_ns = round(max(0, request.output_tokens - 1) * served.token_s * NS_PER_S)
    token_ns = request.prompt_tokens * (prefill_ns + decode_ns) + request.output_tokens * decode_ns // 2
    return token_ns * bytes_per_token // NS_PER_MS
