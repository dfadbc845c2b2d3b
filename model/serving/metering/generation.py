"""Requests and results of the engine: generations, events, limits, and the reasons for refusing.

Plain values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from model.sampling import Constraint, SamplingSettings
from model.serving.engine.scheduler import NeverFitsError
from model.serving.metering.tokens import AnswerToken
from model.serving.metering.usage import Usage

__all__ = [
    "EngineLimits",
    "EngineStoppedError",
    "Event",
    "Finish",
    "Generation",
    "Listener",
    "NeverFitsError",
    "QueueFullError",
]


class QueueFullError(Exception):
    """The queue is full, or its owner's share of it: try again later."""


class EngineStoppedError(Exception):
    """The engine is shutting down and accepts no new requests."""


class Finish(StrEnum):
    STOP = "stop"  # the model ended its answer, a stop string appeared, or its constraint is complete
    LENGTH = "length"  # max_tokens are used up
    CANCELLED = "cancelled"  # the caller no longer wants it
    DEADLINE = "deadline"  # its deadline has passed, or could no longer be met
    ERROR = "error"  # the step that computed it failed


@dataclass(frozen=True)
class Generation:
    """One request. `prompt` and `max_tokens` together must fit the model's context.

    `n` answers are drawn, each with its own seed. Prompts share cached prefixes only under equal `salt`. Among
    `owner`s the one that was served the fewest tokens comes first, within the highest `priority`. `deadline_ms` counts
    from submission to the end of the answers. A `constraint` serves one generation only. `stop_token_ids` end an answer
    in addition to the model's own. Before `min_tokens` no stop token or stop string ends it; `min_tokens` cannot be
    combined with a `constraint`.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    settings: SamplingSettings
    stop: tuple[str, ...] = ()
    ignore_stop_tokens: bool = False
    n: int = 1
    salt: str = ""
    owner: str = ""
    priority: int = 0
    deadline_ms: int | None = None
    constraint: Constraint | None = None
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.prompt or self.max_tokens < 1 or self.n < 1:
            raise ValueError("a generation needs a prompt, at least one answer and at least one token of it")
        if self.deadline_ms is not None and self.deadline_ms < 1:
            raise ValueError("deadline_ms must be at least 1: it counts from submission")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ValueError("min_tokens must be between 0 and max_tokens")
        if self.min_tokens and self.constraint is not None:
            raise ValueError(
                "min_tokens cannot be used with a constraint: such an answer ends where it is complete"
            )


@dataclass(frozen=True)
class Event:
    """One more token of an answer with the text that is final with it (often none), or an answer's end.

    `usage` is the whole request's. `chosen` is None where an end brings no token.
    """

    text: str
    usage: Usage
    finish: Finish | None = None
    chosen: AnswerToken | None = None
    answer: int = 0  # which of the n
    is_last: bool = False  # all answers have ended


Listener = Callable[[Event], None]  # called on the engine's thread; must not block


@dataclass(frozen=True)
class EngineLimits:
    """`step_tokens` is the budget of one step, decoding and prompts together; it must exceed `max_running`.

    A named owner may fill half of the queue, so that one that floods it leaves room for others. The queue holds
    requests that have not started, each counted once, however many answers it asks for.
    """

    max_running: int = 16  # answers in progress
    max_waiting: int = 64  # requests
    step_tokens: int = 256
    max_cache_bytes: int = 2 << 30
    max_drafts: int = 4  # draft tokens per answer and step; 0: plain decoding

    @property
    def max_waiting_per_owner(self) -> int:
        return max(1, self.max_waiting // 2)
