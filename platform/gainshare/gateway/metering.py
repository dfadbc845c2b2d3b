"""Meters a generation chunk by chunk, and checks the node's counters. Pure functions.

The node puts its counters on every chunk. The meter keeps the newest ones. It refuses counters that decrease, exceed
the limit, or grow without a token's text or end. So the usage is known at any moment, however the stream ends.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENGINE_COUNTERS = ("queued_ms", "prefill_ms", "decode_ms", "device_ms", "kv_byte_ms")


MAX_REASON_CHARACTERS = 32  # as the database stores it


class MeterError(Exception):
    """The node's counters contradict what it sent."""


@dataclass(frozen=True, slots=True)
class Metered:
    """Metered usage. Tokens are exact; `engine` has the engine's times, which are shown and never billed."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    engine: Mapping[str, float] = field(default_factory=dict)

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
    `n_answers` together.
    """

    def __init__(self, *, prompt_tokens: int, max_tokens: int, n_answers: int = 1) -> None:
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._n_answers = n_answers
        self.metered = Metered()
        self._reasons: dict[int, str] = {}

    @property
    def finish_reason(self) -> str:
        """Finish reasons of the answers, each once; empty before the first end."""
        return ",".join(sorted(set(self._reasons.values())))[:MAX_REASON_CHARACTERS]

    def see(self, chunk: Mapping[str, Any]) -> None:
        """Read the counters of one chunk; on `MeterError` the earlier counts are kept."""
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
        self.metered = seen

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
