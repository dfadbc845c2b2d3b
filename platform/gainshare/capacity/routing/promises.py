"""Whether a request kept what is promised to users: the time to its first token, and of each further one. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """What a served model promises, in milliseconds: 99 of 100 requests are to keep it."""

    first_token_ms: int
    token_ms: int


@dataclass(frozen=True, slots=True)
class Timed:
    """Times of a request by its gateway's clock, in seconds.

    ``first_token_s`` counts from its arrival, also while it waited in front of the nodes; without a first token
    ``waited_s`` is how long it had waited when it ended. ``decode_s`` passed between its first token and its last one,
    ``decode_tokens`` after the first in one answer.
    """

    waited_s: float
    first_token_s: float | None = None
    decode_s: float = 0.0
    decode_tokens: int = 0


def is_late(timed: Timed, promise: Promise) -> bool | None:
    """Whether the promise was broken. None: a request that ended by itself before it could be."""
    if timed.first_token_s is None:
        return True if timed.waited_s * 1000 > promise.first_token_ms else None
    if timed.first_token_s * 1000 > promise.first_token_ms:
        return True
    return timed.decode_s * 1000 > promise.token_ms * timed.decode_tokens if timed.decode_tokens else False
