"""Writes answers in OpenAI's shapes: whole objects and the chunks of a stream. Knows nothing of HTTP."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from model.serving.engine import Finish
from model.serving.usage import Usage

DONE = "data: [DONE]\n\n"


def server_sent(document: dict[str, Any]) -> str:
    """One event of a `text/event-stream`."""
    # ASCII: many clients end a line at every Unicode line break, as U+2028 or U+0085
    return f"data: {json.dumps(document)}\n\n"


@dataclass
class Answer:
    """The shape of one request's answer, chat or completion."""

    model: str
    is_chat: bool
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.is_chat else "cmpl-") + uuid.uuid4().hex

    def whole(self, text: str, finish: Finish, usage: Usage) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish.value}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": usage.to_openai()}

    def opening(self, usage: Usage | None) -> dict[str, Any] | None:
        """The first chunk of a chat stream, which names the role; completions have none."""
        return (
            self._chunk({"delta": {"role": "assistant", "content": ""}}, None, usage)
            if self.is_chat
            else None
        )

    def piece(self, text: str, finish: Finish | None, usage: Usage | None) -> dict[str, Any]:
        if self.is_chat:
            return self._chunk({"delta": {"content": text} if text or finish is None else {}}, finish, usage)
        return self._chunk({"text": text}, finish, usage)

    def closing(self, usage: Usage) -> dict[str, Any]:
        """The chunk without choices that carries the usage of the whole answer."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": usage.to_openai()}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _chunk(self, body: dict[str, Any], finish: Finish | None, usage: Usage | None) -> dict[str, Any]:
        reason = finish.value if finish else None
        choice = {"index": 0, **body, "logprobs": None, "finish_reason": reason}
        chunk = {**self._head(self._chunk_kind), "choices": [choice]}
        return chunk if usage is None else {**chunk, "usage": usage.to_openai()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
