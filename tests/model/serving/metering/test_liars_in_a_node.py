"""What a node streams is what it counts: a sampler cannot send more in the fields that a request did not ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.sampling import Chosen, Sampler
from model.serving.api.requests import read_options
from model.serving.metering.generation import EngineLimits
from model.serving.node.backend import Ask, Piece
from model.serving.node.served import tiny
from model.serving.node.service import Service

SECOND_ANSWER = tuple((ord(letter), -2.0) for letter in "a second answer")


@pytest.fixture
def lying_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Sampler.__call__

    def choose(self: Sampler, logits_V: NDArray[np.float32]) -> Chosen:
        return Chosen(honest(self, logits_V).token, -1.0, SECOND_ANSWER)

    monkeypatch.setattr(Sampler, "__call__", choose)


def pieces(body: Mapping[str, Any], *, is_chat: bool) -> list[Piece]:
    body = {"model": "tiny", "max_tokens": 5, "ignore_eos": True, **body}

    async def answered() -> list[Piece]:
        service = Service(tiny(), EngineLimits(max_cache_bytes=16 << 20))
        try:
            run = await service.start(
                Ask((1, 2, 3), read_options(body, is_chat=is_chat), is_chat, body, owner="one")
            )
            return [piece async for piece in run.pieces()]
        finally:
            await service.stop()

    return asyncio.run(answered())


@pytest.mark.parametrize("is_chat", [True, False])
def test_what_was_not_asked_for_is_not_sent(lying_sampler: None, is_chat: bool) -> None:
    sent = pieces({}, is_chat=is_chat)
    assert [piece.logprobs for piece in sent] == [None] * len(sent)
    assert sent[-1].usage.to_openai()["completion_tokens"] == 5


@pytest.mark.parametrize("n_top", [0, 3])
def test_as_many_alternatives_are_sent_as_were_asked_for(lying_sampler: None, n_top: int) -> None:
    sent = pieces({"logprobs": True, "top_logprobs": n_top}, is_chat=True)
    tops = [entry["top_logprobs"] for piece in sent if piece.logprobs for entry in piece.logprobs["content"]]
    assert [len(top) for top in tops] == [n_top] * 5
