"""A backend that answers as a test says: fixed pieces, pauses, refusals. For what stands around backends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.metrics_core import Metric

from model.serving.api.errors import ApiError, not_now
from model.serving.api.requests import Prompt, read_options
from model.serving.node.backend import Ask, Piece, TokenCount


@dataclass(frozen=True)
class ScriptedUsage:
    prompt_tokens: int = 3
    completion_tokens: int = 0
    cached_tokens: int = 0

    def to_openai(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


def ask(model: str = "m", **fields: Any) -> Ask:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return Ask("Hi", read_options(body, is_chat=True), True, body)


@dataclass
class ScriptedBackend:
    """`gate` closed: an answer waits after its first piece until it is opened, or the backend is stopped."""

    name: str = "m"
    n_tokens: int = 3
    refusal: ApiError | None = None
    is_alive: bool = True
    is_stopped: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    def describe(self) -> dict[str, Any]:
        return {"max_context": 64}

    def stats(self) -> dict[str, int]:
        return {"running": 1, "waiting": 2, "kv_blocks": 10, "kv_blocks_held": 4, "busy_ns": 1_500_000_000}

    def collect(self) -> Iterable[Metric]:
        return ()

    async def check_ready(self) -> None:
        if not self.is_alive:
            raise not_now("failed", "it has ended")

    async def count(self, prompt: Prompt) -> TokenCount:
        return TokenCount(len(prompt), 64)

    async def start(self, ask: Ask) -> ScriptedRun:
        if self.refusal is not None:
            raise self.refusal
        return ScriptedRun(self)

    async def stop(self) -> None:
        self.is_stopped = True
        self.gate.set()


class ScriptedRun:
    def __init__(self, backend: ScriptedBackend) -> None:
        self._backend = backend

    async def pieces(self) -> AsyncIterator[Piece]:
        n = self._backend.n_tokens
        for i in range(1, n + 1):
            usage = ScriptedUsage(completion_tokens=i, cached_tokens=2)
            yield Piece("x", usage, finish="length" if i == n else None)
            if i == 1:
                await self._backend.gate.wait()
            if self._backend.is_stopped:
                raise not_now("shutting_down", "the node ended this answer early")

    def cancel(self) -> None:
        self._backend.cancelled += 1
