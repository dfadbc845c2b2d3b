"""Interface of a node's backend: the bundled engine (`service.py`) or another server (`upstream/backend.py`).

Both take a parsed request and return pieces of text with counters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric

from model.serving.api.requests import Options, Prompt


class Counters(Protocol):
    """Interface of the counters of a request's usage so far."""

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's `usage` object with our counters added."""


@dataclass(frozen=True)
class Piece:
    """A piece of one answer: final text (often none), log-probabilities in the endpoint's shape, or the end."""

    text: str
    usage: Counters  # of all answers of the request
    index: int = 0  # which of its answers
    finish: str | None = None
    logprobs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Ask:
    """One request. `owner` is the opaque name of its tenant, for fairness and the prefix cache."""

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
    """Interface of an accepted request. Its holder must cancel it in the end."""

    def pieces(self) -> AsyncIterator[Piece]:
        """The pieces, to be iterated once, until each answer has ended. Raises ApiError where an answer breaks off."""

    def cancel(self) -> None:
        """End the work at once; harmless if it has ended."""


class Backend(Protocol):
    """Interface of a backend, which serves one model."""

    @property
    def name(self) -> str: ...

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""

    def describe(self) -> dict[str, Any]:
        """Fields of /v1/models in addition to id, object and date."""

    def stats(self) -> dict[str, int]:
        """Counters: `running` and `waiting` requests, and others."""

    def collect(self) -> Iterable[Metric]:
        """Prometheus metrics in addition to `stats`."""

    async def check_ready(self) -> None:
        """Raises ApiError (503) while it cannot take requests."""

    async def count(self, prompt: Prompt) -> TokenCount:
        """Count a prompt's tokens. Raises ApiError (400) for prompts that the model cannot read."""

    async def start(self, ask: Ask) -> Running:
        """Start a request. Raises ApiError: 400 for an invalid one, 429 and 503 if it cannot start now."""

    async def stop(self) -> None:
        """End all requests and free everything. Nothing can be started afterwards."""
