"""Interface of a node's backend: the bundled engine (`service.py`) or another server (`upstream/backend.py`).

Both take a request that was read, and give back pieces of text with counters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric

from model.serving.api.requests import Options, Prompt


class Counters(Protocol):
    """What a request has used so far."""

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's `usage` object with our counters beside it."""


@dataclass(frozen=True)
class Piece:
    """Some more of one answer: settled text (often none), log-probabilities in the endpoint's shape, or the end."""

    text: str
    usage: Counters  # of all answers of the request
    index: int = 0  # which of its answers
    finish: str | None = None
    logprobs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Ask:
    """One request. `owner` names, opaquely, whose it is: fairness and the prefix cache go by it."""

    prompt: Prompt
    options: Options
    is_chat: bool
    body: Mapping[str, Any]  # as it was sent
    owner: str = ""


@dataclass(frozen=True)
class TokenCount:
    """The length of a prompt and of the model's context, in tokens."""

    count: int
    max_context: int


class Running(Protocol):
    """An accepted request. Whoever holds it must cancel it in the end."""

    def pieces(self) -> AsyncIterator[Piece]:
        """To be iterated once; ends when each answer has ended. Raises ApiError where an answer breaks off."""

    def cancel(self) -> None:
        """Ends the work at once; harmless when it has ended."""


class Backend(Protocol):
    """One served model."""

    @property
    def name(self) -> str: ...

    @property
    def is_alive(self) -> bool:
        """False when it can never answer again."""

    def describe(self) -> dict[str, Any]:
        """What /v1/models says beside id, object and date."""

    def stats(self) -> dict[str, int]:
        """`running` and `waiting` requests, and what else it counts."""

    def collect(self) -> Iterable[Metric]:
        """Families for Prometheus beyond `stats`."""

    async def check_ready(self) -> None:
        """Raises ApiError (503) while it cannot take requests."""

    async def count(self, prompt: Prompt) -> TokenCount:
        """Raises ApiError (400) for prompts that the model cannot read."""

    async def start(self, ask: Ask) -> Running:
        """Raises ApiError: 400 for what cannot be, 429 and 503 for what cannot be now."""

    async def stop(self) -> None:
        """Breaks off whatever runs and frees everything. Nothing can be started afterwards."""
