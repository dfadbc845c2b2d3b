"""What each request used, as the engine counts it: tokens, times and cache memory. Bills are made of this.

Patches may not touch this file (benchmarks/policy.toml). Times come in as integer nanoseconds of one monotonic
clock; nothing is lost to rounding before a reading is shown. Knows nothing of models or prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Usage:
    """One reading of a request's counters."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken from a prefix cache
    completion_tokens: int  # every sampled token, the stop token included
    queued_ns: int  # from submission to the first step
    prefill_ns: int  # from the first step to the first token
    decode_ns: int  # from the first token to the end
    device_ns: int  # this request's share of the steps that it took part in
    kv_byte_ns: int  # bytes of cache held, integrated over time; not while queued

    def to_openai(self) -> dict[str, object]:
        """OpenAI's `usage` object with our counters beside it; milliseconds are whole, rounded down."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "gainshare": {
                "queued_ms": self.queued_ns // NS_PER_MS,
                "prefill_ms": self.prefill_ns // NS_PER_MS,
                "decode_ms": self.decode_ns // NS_PER_MS,
                "device_ms": self.device_ns // NS_PER_MS,
                "kv_byte_ms": self.kv_byte_ns // NS_PER_MS,
                "device_ns": self.device_ns,
            },
        }


class RequestMeter:
    """Counts one request. Its owner calls it in order: started, then any number of tokens, then ended."""

    def __init__(self, prompt_tokens: int, now_ns: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.device_ns = 0
        self._submitted_ns = now_ns
        self._started_ns: int | None = None
        self._first_token_ns: int | None = None
        self._ended_ns: int | None = None
        self._kv_bytes = 0
        self._kv_byte_ns = 0
        self._kv_since_ns = now_ns

    def started(self, now_ns: int) -> None:
        self._started_ns = now_ns

    def token(self, now_ns: int) -> None:
        if self._first_token_ns is None:
            self._first_token_ns = now_ns
        self.completion_tokens += 1

    def holds_cache(self, n_bytes: int, now_ns: int) -> None:
        """From now on the request holds this much cache."""
        self._kv_byte_ns += self._kv_bytes * (now_ns - self._kv_since_ns)
        self._kv_bytes, self._kv_since_ns = n_bytes, now_ns

    def ended(self, now_ns: int) -> None:
        self.holds_cache(0, now_ns)
        self._ended_ns = now_ns

    def read(self, now_ns: int) -> Usage:
        now_ns = self._ended_ns if self._ended_ns is not None else now_ns
        started_ns = self._started_ns if self._started_ns is not None else now_ns
        first_ns = self._first_token_ns if self._first_token_ns is not None else now_ns
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=0,  # there is no prefix cache yet
            completion_tokens=self.completion_tokens,
            queued_ns=started_ns - self._submitted_ns,
            prefill_ns=first_ns - started_ns,
            decode_ns=now_ns - first_ns,
            device_ns=self.device_ns,
            kv_byte_ns=self._kv_byte_ns + self._kv_bytes * max(0, now_ns - self._kv_since_ns),
        )


class DeviceMeter:
    """The device's busy time; every nanosecond of it is charged to exactly one request."""

    def __init__(self) -> None:
        self.busy_ns = 0

    def step(self, duration_ns: int, parts: Sequence[tuple[RequestMeter, int]]) -> None:
        """Splits one step's duration over its requests by their number of tokens in it."""
        self.busy_ns += duration_ns
        left_ns, left_tokens = duration_ns, sum(n_tokens for _, n_tokens in parts)
        for meter, n_tokens in parts:
            share_ns = left_ns * n_tokens // left_tokens
            meter.device_ns += share_ns
            left_ns, left_tokens = left_ns - share_ns, left_tokens - n_tokens
