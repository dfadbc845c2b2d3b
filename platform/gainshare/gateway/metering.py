"""Meters a generation chunk by chunk, and checks the node's counters.

The node puts its counters on every chunk. The meter keeps the newest ones. It refuses counters that decrease, exceed
the limit, or grow without a token's text or end. So the usage is known at any moment, however the stream ends.

Cache memory is the meter's own: tokens held x bytes for each x the gateway's clock, until the newest chunk. Of the
node's counters only `queued_ms` lowers it, because protected code counts it; the node's `kv_byte_ms` is shown only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gainshare.gateway.arrivals import ArrivalClock, Moment
from gainshare.gateway.cache_memory import UNKNOWN, CacheShape
from gainshare.ledger.pricing import Arrival

ENGINE_COUNTERS = ("queued_ms", "prefill_ms", "decode_ms", "device_ms", "kv_byte_ms")


MAX_REASON_CHARACTERS = 32  # as the database stores it
MOST_BYTE_MS = 2**63 - 1  # as the database stores them
NS_PER_MS = 1_000_000


class MeterError(Exception):
    """The node's counters contradict what it sent."""


@dataclass(frozen=True, slots=True)
class Metered:
    """Metered usage. Tokens are exact; `engine` has the engine's times, which are shown and never billed.

    `prompt_hour` and `arrivals` are the hours of day (UTC) of the first token's and of the output tokens' arrival.
    `kv_byte_ms` is the cache memory by the gateway's counts and clock.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    engine: Mapping[str, float] = field(default_factory=dict)
    prompt_hour: int | None = None
    arrivals: tuple[Arrival, ...] = ()
    kv_byte_ms: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_openai(self) -> dict[str, Any]:
        """OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Meter:
    """Meter of one stream. `prompt_tokens` is the tokeniser's count; `max_tokens` is the held limit for all
    `n_answers` together. The request's `clock` begins with the meter, before it is sent to a node.
    """

    def __init__(
        self,
        *,
        prompt_tokens: int,
        max_tokens: int,
        n_answers: int = 1,
        cache: CacheShape = UNKNOWN,
        clock: ArrivalClock | None = None,
    ) -> None:
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._n_answers = n_answers
        self.clock = clock or ArrivalClock()
        self.metered = Metered()
        self._memory = HeldMemory(cache, prompt_tokens, n_answers)
        self._arrived = ArrivedTokens()
        self._reasons: dict[int, str] = {}

    @property
    def finish_reason(self) -> str:
        """Finish reasons of the answers, each once; empty before the first end."""
        return ",".join(sorted(set(self._reasons.values())))[:MAX_REASON_CHARACTERS]

    def see(self, chunk: Mapping[str, Any], at: Moment | None = None) -> None:
        """Read the counters of one chunk that arrived `at` a moment, now by default.

        On `MeterError` the earlier counts are kept.
        """
        at = at or self.clock.now()
        choices = _choices(chunk)
        for choice in choices:
            if reason := choice.get("finish_reason"):
                self._reasons[self._index(choice)] = str(reason)
        usage = chunk.get("usage")
        if not isinstance(usage, dict):
            raise MeterError("a chunk came without counters")
        seen = Metered(
            prompt_tokens=_count(usage, "prompt_tokens"),
            cached_tokens=_count(_section(usage, "prompt_tokens_details"), "cached_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            engine=_engine(_section(usage, "gainshare")),
        )
        if seen.prompt_tokens != self._prompt_tokens:
            raise MeterError(
                f"the prompt has {self._prompt_tokens} tokens, the node counted {seen.prompt_tokens}"
            )
        if seen.cached_tokens > seen.prompt_tokens:
            raise MeterError(
                f"{seen.cached_tokens} of {seen.prompt_tokens} prompt tokens cannot come from the cache"
            )
        if seen.completion_tokens < self.metered.completion_tokens:
            raise MeterError("the number of generated tokens went down")
        if seen.completion_tokens > self._max_tokens:
            raise MeterError(f"{seen.completion_tokens} tokens were generated, {self._max_tokens} allowed")
        if seen.completion_tokens > self.metered.completion_tokens and not choices:
            raise MeterError("generated tokens were counted that no chunk brought")
        if n_new := seen.completion_tokens - self.metered.completion_tokens:
            self._arrived.add(n_new, self._index(choices[0]), at.hour)
        self._memory.see(seen, at.ns)
        is_first = not self.metered.completion_tokens
        self.metered = replace(
            seen,
            prompt_hour=at.hour if is_first else self.metered.prompt_hour,
            arrivals=self._arrived.counts,
            kv_byte_ms=self._memory.byte_ms,
        )

    def _index(self, choice: Mapping[str, Any]) -> int:
        index = _count(choice, "index")
        if index >= self._n_answers:
            raise MeterError(f"answer {index} was not asked for")
        return index

    def check_complete(self) -> None:
        """Raises `MeterError` if the stream ended without counters or without a finish reason for each answer."""
        if len(self._reasons) != self._n_answers:
            raise MeterError(
                f"{self._n_answers} answers were asked for, {len(self._reasons)} have a finish reason"
            )
        if self.metered.prompt_tokens != self._prompt_tokens:
            raise MeterError("the stream ended without counters")


class ArrivedTokens:
    """Counts of output tokens by the hour of their arrival and by answer, in the order of arrival."""

    def __init__(self) -> None:
        self.counts: tuple[Arrival, ...] = ()

    def add(self, tokens: int, answer: int, hour: int | None) -> None:
        """Add new tokens; those of no known hour are in no count."""
        if hour is None:
            return
        newest = next((i for i in reversed(range(len(self.counts))) if self.counts[i].answer == answer), None)
        if newest is None or self.counts[newest].hour != hour:
            self.counts = (*self.counts, Arrival(hour, answer, tokens))
        else:
            grown = Arrival(hour, answer, self.counts[newest].tokens + tokens)
            self.counts = (*self.counts[:newest], grown, *self.counts[newest + 1 :])


class HeldMemory:
    """Cache memory of one request, integrated over the gateway's clock.

    The prompt is held from the beginning, each output token from its arrival. While the request waits at the node, also
    after an eviction, nothing is held: the node's protected metering counts that as `queued_ms`. A node that does not
    count it (another server's) is taken to wait until the first token.
    """

    def __init__(self, cache: CacheShape, prompt_tokens: int, n_answers: int) -> None:
        self._cache = cache
        self._most = None if cache.window is None else cache.window * n_answers
        self._tokens = prompt_tokens
        self._has_begun = False
        self._token_ns = self._seen_ns = self._queued_ns = 0

    @property
    def byte_ms(self) -> int:
        return min(self._token_ns * self._cache.bytes_per_token // NS_PER_MS, MOST_BYTE_MS)

    def see(self, seen: Metered, at_ns: int) -> None:
        """Add the time since the last chunk, for the tokens that were held in it."""
        passed_ns = max(0, at_ns - self._seen_ns)
        waited_ns = min(passed_ns, self._waited_ns(seen, passed_ns))
        held = self._tokens if self._most is None else min(self._tokens, self._most)
        self._token_ns += held * (passed_ns - waited_ns)
        self._seen_ns += passed_ns
        self._tokens = seen.prompt_tokens + seen.completion_tokens
        self._has_begun |= seen.completion_tokens > 0

    def _waited_ns(self, seen: Metered, passed_ns: int) -> int:
        """The wait that the node counted since the last chunk, zero or more."""
        queued_ms = seen.engine.get("queued_ms")
        if queued_ms is None:
            return 0 if self._has_begun else passed_ns
        before_ns, queued_ns = self._queued_ns, int(queued_ms) * NS_PER_MS
        self._queued_ns = max(before_ns, queued_ns)
        return self._queued_ns - before_ns


def _choices(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Parts of answers in a chunk, often none."""
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise MeterError("choices are not a list of objects")
    return choices


def _section(counters: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = counters.get(name) or {}
    if not isinstance(section, dict):
        raise MeterError(f"{name} is not an object")
    return section


def _count(counters: Mapping[str, Any], name: str) -> int:
    value = counters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MeterError(f"{name} is not a count")
    return value


def _engine(counters: Mapping[str, Any]) -> dict[str, float]:
    return {name: counters[name] for name in ENGINE_COUNTERS if _is_finite(counters.get(name))}


def _is_finite(value: Any) -> bool:
    """Whether the database can store it as a JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
