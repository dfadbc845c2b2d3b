"""Usage of each request, as the engine counts it: tokens, times and cache memory. Bills are made of this.

Patches may not touch this file (benchmarks/policy.toml). Times come in as integer nanoseconds of one monotonic clock;
nothing is lost to rounding before a reading is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NS_PER_MS = 1_000_000
_QUEUED, _PREFILL, _DECODE = range(3)  # a request's phases


@dataclass(frozen=True)
class Usage:
    """One reading of a request's counters."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken from a prefix cache
    completion_tokens: int  # all sampled tokens, the stop token included
    queued_ns: int  # until the first step, and from a preemption to the next step
    prefill_ns: int  # the rest of the time until the first token
    decode_ns: int  # the rest of the time from the first token to the end
    device_ns: int  # this request's share of the steps that it took part in
    kv_byte_ns: int  # bytes of cache held, integrated over time; nothing is held while queued

    @property
    def fresh_tokens(self) -> int:
        """Tokens of the prompt that had to be computed."""
        return self.prompt_tokens - self.cached_tokens

    def to_openai(self) -> dict[str, object]:
        """OpenAI's `usage` object with our counters added; milliseconds are whole, rounded down."""
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
    """Counts one request. Its owner calls it in order: started, then any number of tokens, then ended.

    In between it may be preempted and started again. Times of the three phases add up to its whole life.
    """

    def __init__(self, prompt_tokens: int, now_ns: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.device_ns = 0
        self._phase = _QUEUED
        self._phase_ns = [0, 0, 0]
        self._since_ns = now_ns
        self._is_ended = False
        self._kv_bytes = 0
        self._kv_byte_ns = 0
        self._kv_since_ns = now_ns

    def started(self, now_ns: int) -> None:
        """The request runs from now on; harmless if it did already."""
        if self._phase == _QUEUED:
            self._enter(_DECODE if self.completion_tokens else _PREFILL, now_ns)

    def preempted(self, now_ns: int) -> None:
        """The request does not run from now on and holds no cache."""
        self.holds_cache(0, now_ns)
        self._enter(_QUEUED, now_ns)

    def token(self, now_ns: int) -> None:
        if self.completion_tokens == 0:
            self._enter(_DECODE, now_ns)
        self.completion_tokens += 1

    def holds_cache(self, n_bytes: int, now_ns: int) -> None:
        """The request holds this much cache from now on."""
        self._kv_byte_ns += self._kv_bytes * (now_ns - self._kv_since_ns)
        self._kv_bytes, self._kv_since_ns = n_bytes, now_ns

    def ended(self, now_ns: int) -> None:
        self.holds_cache(0, now_ns)
        self._enter(self._phase, now_ns)
        self._is_ended = True

    def _enter(self, phase: int, now_ns: int) -> None:
        self._phase_ns[self._phase] += now_ns - self._since_ns
        self._phase, self._since_ns = phase, now_ns

    def read(self, now_ns: int) -> Usage:
        phase_ns = list(self._phase_ns)
        if not self._is_ended:
            phase_ns[self._phase] += now_ns - self._since_ns
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            queued_ns=phase_ns[_QUEUED],
            prefill_ns=phase_ns[_PREFILL],
            decode_ns=phase_ns[_DECODE],
            device_ns=self.device_ns,
            kv_byte_ns=self._kv_byte_ns + self._kv_bytes * max(0, now_ns - self._kv_since_ns),
        )


class DeviceMeter:
    """The device's busy time; every nanosecond of it is charged to exactly one request."""

    def __init__(self) -> None:
        self.busy_ns = 0

    def step(self, duration_ns: int, parts: Sequence[tuple[RequestMeter, int]]) -> None:
        """Splits one step's duration over its requests in proportion to the work (above 0) of each in it."""
        self.busy_ns += duration_ns
        left_ns, left_work = duration_ns, sum(work for _, work in parts)
        for meter, work in parts:
            share_ns = left_ns * work // left_work
            meter.device_ns += share_ns
            left_ns, left_work = left_ns - share_ns, left_work - work
