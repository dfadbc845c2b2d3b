"""Usage of a request as the gateway would count it: tokens, hours of arrival, and KV byte-milliseconds."""

from __future__ import annotations

from gainshare.capacity.replay.fleet import Served
from gainshare.capacity.traces.requests import TraceRequest
from gainshare.ledger.pricing import Arrival, Usage

NS_PER_S = 10**9
NS_PER_MS = 10**6
HOUR_NS = 3600 * NS_PER_S


def usage_of(request: TraceRequest, served: Served, *, at_s: float, bytes_per_token: int) -> Usage:
    """Usage of a request that arrived at ``at_s`` (UTC seconds)."""
    first_ns = nanoseconds(at_s + served.first_token_s)
    return Usage(
        cached_tokens=served.cached_tokens,
        fresh_tokens=request.prompt_tokens - served.cached_tokens,
        output_tokens=request.output_tokens,
        prompt_hour=_hour(first_ns),
        arrivals=arrivals_by_hour(first_ns, request.output_tokens, nanoseconds(served.token_s)),
        kv_byte_ms=kv_byte_ms(request, served, bytes_per_token),
    )


def arrivals_by_hour(first_ns: int, tokens: int, token_ns: int) -> tuple[Arrival, ...]:
    """Tokens of an answer by the hour of their arrival: the first at ``first_ns``, then one each ``token_ns``."""
    counted: list[Arrival] = []
    done = 0
    while done < tokens:
        at_ns = first_ns + done * token_ns
        to_next_hour_ns = HOUR_NS - at_ns % HOUR_NS
        more = min(tokens - done, -(-to_next_hour_ns // token_ns))
        counted.append(Arrival(_hour(at_ns), 0, more))
        done += more
    return tuple(counted)


def nanoseconds(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def _hour(at_ns: int) -> int:
    """Hour of the day, 0 to 23."""
    return at_ns // HOUR_NS % 24


def kv_byte_ms(request: TraceRequest, served: Served, bytes_per_token: int) -> int:
    """Bytes times milliseconds, as the gateway's meter integrates them, rounded down.

    The prompt is held from its start on a node to the answer's last token, each token of the answer from its arrival.
    Nothing is held while the request is queued.
    """
    prefill_ns = nanoseconds(served.first_token_s - served.queued_s)
    decode_ns = max(0, request.output_tokens - 1) * nanoseconds(served.token_s)
    token_ns = request.prompt_tokens * (prefill_ns + decode_ns) + request.output_tokens * decode_ns // 2
    return token_ns * bytes_per_token // NS_PER_MS
