"""Write answers in OpenAI's shapes: whole objects and the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.serving.api.logprobs import joined
from model.serving.node.backend import Counters, Piece

DONE = "data: [DONE]\n\n"


def server_sent(document: Mapping[str, Any]) -> str:
    """One event of a `text/event-stream`."""
    # ASCII: many clients end a line at every Unicode line break, as U+2028 or U+0085
    return f"data: {json.dumps(document)}\n\n"


@dataclass
class Answer:
    """Writes one request's answers in OpenAI's shape, chat or completion."""

    model: str
    is_chat: bool
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.is_chat else "cmpl-") + uuid.uuid4().hex
        self._opened: set[int] = set()

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The whole response object, from the pieces of complete answers."""
        indices = sorted({piece.index for piece in pieces})
        choices = [self._choice(index, [p for p in pieces if p.index == index]) for index in indices]
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": pieces[-1].usage.to_openai()}

    def _choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        logprobs = joined(piece.logprobs for piece in pieces if piece.logprobs is not None)
        (finish,) = (piece.finish for piece in pieces if piece.finish is not None)
        choice: dict[str, Any] = {"index": index, "logprobs": logprobs, "finish_reason": finish}
        if self.is_chat:
            return {**choice, "message": {"role": "assistant", "content": text}}
        return {**choice, "text": text}

    def chunks(self, piece: Piece, *, with_usage: bool) -> Iterator[dict[str, Any]]:
        """The chunks of a piece, often none: empty chunks are not sent.

        The first chunk of each chat answer names the role; completions have no such chunk.
        """
        usage = piece.usage if with_usage else None
        if self.is_chat and piece.index not in self._opened:
            self._opened.add(piece.index)
            opening = {"delta": {"role": "assistant", "content": ""}}
            yield self._chunk(piece.index, opening, finish=None, usage=usage)
        if piece.text or piece.finish or piece.logprobs or usage:
            yield self._chunk(
                piece.index, self._body(piece), finish=piece.finish, usage=usage, logprobs=piece.logprobs
            )

    def _body(self, piece: Piece) -> dict[str, Any]:
        if not self.is_chat:
            return {"text": piece.text}
        is_empty = not piece.text and piece.finish is not None
        return {"delta": {} if is_empty else {"content": piece.text}}

    def closing(self, usage: Counters) -> dict[str, Any]:
        """The chunk without choices that carries the usage of the whole request."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": usage.to_openai()}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _chunk(
        self,
        index: int,
        body: Mapping[str, Any],
        *,
        finish: str | None,
        usage: Counters | None,
        logprobs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": finish}
        chunk = {**self._head(self._chunk_kind), "choices": [choice]}
        return chunk if usage is None else {**chunk, "usage": usage.to_openai()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
