"""Analysis of a request before it is routed: its lengths, its salted prefix digests, and its urgency. Pure.

The digests never leave the site's own tables, and without the salt they say nothing about a prompt.
"""

from __future__ import annotations

import hmac
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BLOCK_BYTES = 512  # of the prompt's text; about 128 tokens of English
MAX_BLOCKS = 512  # deeper blocks of a prompt are not told apart
N_BUCKETS = 25  # the last one holds all answers of 2**23 tokens and more
PRIOR_TOKENS = 256  # expected of a key without history
PRIOR_REQUESTS = 4  # weight of that expectation
BOUND_SHARE = 0.95  # share of the answers that are no longer than the bound


@dataclass(frozen=True, slots=True)
class History:
    """Lengths of earlier answers: `buckets[i]` counts answers of fewer than 2**i tokens and at least 2**(i-1)."""

    requests: int = 0
    tokens: int = 0
    buckets: tuple[int, ...] = (0,) * N_BUCKETS


@dataclass(frozen=True, slots=True)
class Urgency:
    """What a request says of its urgency. A user can only lower the `priority`; `deadline_s` counts from its arrival."""

    priority: int = 0
    deadline_s: float | None = None

    @classmethod
    def of(cls, extension: object) -> Urgency:
        """From a request's checked `gainshare` object, or from None."""
        if not isinstance(extension, Mapping):
            return cls()
        deadline_ms = extension.get("deadline_ms")
        return cls(
            min(0, extension.get("priority") or 0), None if deadline_ms is None else deadline_ms / 1000
        )


@dataclass(frozen=True, slots=True)
class Analysis:
    """What routing knows about a request. `expected_tokens` <= `bound_tokens` <= the request's limit.

    `digests[i]` stands for the first i + 1 blocks of the prompt. `deadline_s` counts from the request's arrival.
    """

    prompt_tokens: int
    expected_tokens: int
    bound_tokens: int
    digests: tuple[int, ...] = ()
    n_bytes: int = 0
    deadline_s: float | None = None
    priority: int = 0

    def tokens_of(self, n_blocks: int) -> int:
        """Prompt tokens in the first `n_blocks` blocks, by their share of the text, rounded down."""
        if not self.n_bytes:
            return 0
        return min(self.prompt_tokens, self.prompt_tokens * n_blocks * BLOCK_BYTES // self.n_bytes)


def analyse(
    *,
    prompt: Mapping[str, Any],
    prompt_tokens: int,
    limit: int,
    salt: bytes,
    history: History | None = None,
    urgency: Urgency | None = None,
) -> Analysis:
    """Analyse a request whose answers may have `limit` tokens in all."""
    text = canonical(prompt)
    expected, bound = expected_output(history or History(), limit)
    urgency = urgency or Urgency()
    return Analysis(
        prompt_tokens=prompt_tokens,
        expected_tokens=expected,
        bound_tokens=bound,
        digests=block_digests(text, salt),
        n_bytes=len(text),
        deadline_s=urgency.deadline_s,
        priority=urgency.priority,
    )


def canonical(prompt: Mapping[str, Any]) -> bytes:
    """The prompt as bytes, such that a conversation that continues another one begins with the same bytes."""
    return json.dumps(prompt, sort_keys=True, separators=(",", ":")).encode()


def block_digests(text: bytes, salt: bytes) -> tuple[int, ...]:
    """Digests of the whole blocks of `text`, each with all before it: 64-bit signed numbers, keyed with `salt`."""
    digests: list[int] = []
    before = b""
    whole = min(len(text) // BLOCK_BYTES, MAX_BLOCKS)
    for begin in range(0, whole * BLOCK_BYTES, BLOCK_BYTES):
        before = hmac.digest(salt, before + text[begin : begin + BLOCK_BYTES], "sha256")
        digests.append(int.from_bytes(before[:8], "big", signed=True))
    return tuple(digests)


def recorded(digests: Sequence[int]) -> tuple[int, ...]:
    """The digests that are kept of a prompt: those of 1, 2, 4, 8, ... blocks, and the deepest ones."""
    kept = {2**power - 1 for power in range(len(digests).bit_length())} | {len(digests) - 1, len(digests) - 2}
    return tuple(digests[i] for i in sorted(kept) if 0 <= i < len(digests))


def bucket_of(tokens: int) -> int:
    """Number of the bucket of an answer of this length."""
    return min(max(tokens, 0).bit_length(), N_BUCKETS - 1)


def expected_output(history: History, limit: int) -> tuple[int, int]:
    """Expected tokens of the answers and their bound, both at most `limit` and at least 1.

    The mean of the key's history is mixed with `PRIOR_TOKENS`, as if that were the length of `PRIOR_REQUESTS` answers.
    The bound is the upper edge of the bucket that holds the `BOUND_SHARE` quantile; without history it is the limit.
    """
    limit = max(limit, 1)
    prior = min(PRIOR_TOKENS, limit)
    requests, tokens = max(history.requests, 0), max(history.tokens, 0)
    mean = math.ceil((tokens + prior * PRIOR_REQUESTS) / (requests + PRIOR_REQUESTS))
    bound = min(_quantile_edge(history.buckets), limit) if requests >= PRIOR_REQUESTS else limit
    bound = max(bound, 1)
    return max(1, min(mean, bound)), bound


def _quantile_edge(buckets: Sequence[int]) -> int:
    needed = BOUND_SHARE * sum(buckets)
    seen = 0
    for i, count in enumerate(buckets):
        seen += count
        if seen >= needed and seen:
            return int(2**i)
    return int(2 ** len(buckets))
