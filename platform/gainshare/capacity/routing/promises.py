"""Whether a request kept what is promised to users: the time to its first token, and of each further one. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """What a served model promises, in milliseconds: 99 of 100 requests are to keep each of the two."""

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


@dataclass(frozen=True, slots=True)
class Broken:
    """Which of the two were broken: a late first token, slow ones after it."""

    is_late: bool
    is_slow: bool


def broken(timed: Timed, promise: Promise) -> Broken | None:
    """What was broken, if anything. None: a request that ended by itself before anything could be."""
    if timed.first_token_s is None:
        return Broken(is_late=True, is_slow=False) if timed.waited_s * 1000 > promise.first_token_ms else None
    return Broken(
        is_late=timed.first_token_s * 1000 > promise.first_token_ms,
        is_slow=timed.decode_tokens > 0 and timed.decode_s * 1000 > promise.token_ms * timed.decode_tokens,
    )
