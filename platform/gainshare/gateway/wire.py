"""Output shapes of the gateway: chunks without the node's internals, whole answers, server-sent events. Pure."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gainshare.gateway.metering import Metered
from gainshare.gateway.requests import Endpoint
from gainshare.gateway.trees import system_fingerprint
from model.serving.api.logprobs import joined

DONE = b"data: [DONE]\n\n"
CHUNK_OBJECTS = {Endpoint.CHAT: "chat.completion.chunk", Endpoint.COMPLETIONS: "text_completion"}
ANSWER_OBJECTS = {Endpoint.CHAT: "chat.completion", Endpoint.COMPLETIONS: "text_completion"}
ID_PREFIXES = {Endpoint.CHAT: "chatcmpl", Endpoint.COMPLETIONS: "cmpl"}


def event(document: Mapping[str, Any]) -> bytes:
    """One server-sent event, in ASCII, because many clients end a line at Unicode line breaks such as U+2028."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


class Envelope:
    """Fields that all chunks and the answer of one request share. `tree` is set once the answering node is known."""

    def __init__(self, *, request_id: UUID, endpoint: Endpoint, model: str, created: int) -> None:
        self._endpoint = endpoint
        self._common = {"id": f"{ID_PREFIXES[endpoint]}-{request_id}", "created": created, "model": model}
        self._gathered: dict[int, _Choice] = {}
        self.tree = ""

    @property
    def _shared(self) -> dict[str, Any]:
        return {**self._common, "system_fingerprint": system_fingerprint(self.tree)}

    def chunk(self, node_chunk: Mapping[str, Any], *, wants_usage: bool) -> dict[str, Any] | None:
        """Convert a node's chunk for the client; None for a chunk with only counters."""
        if not node_chunk.get("choices"):
            return None
        chunk = {**self._shared, "object": CHUNK_OBJECTS[self._endpoint], "choices": node_chunk["choices"]}
        if wants_usage:
            chunk["usage"] = None
        return chunk

    def usage_chunk(self, metered: Metered) -> dict[str, Any]:
        """The last chunk with the usage, as requested by `stream_options.include_usage`."""
        return {
            **self._shared,
            "object": CHUNK_OBJECTS[self._endpoint],
            "choices": [],
            "usage": metered.as_openai(),
        }

    def gather(self, node_chunk: Mapping[str, Any]) -> None:
        """Add a chunk to the answers that `answer` returns whole."""
        for choice in node_chunk.get("choices", ()):
            self._gathered.setdefault(choice.get("index", 0), _Choice()).add(choice)

    def answer(self, metered: Metered) -> dict[str, Any]:
        """The whole answer from all gathered chunks."""
        choices = [choice.whole(index, self._endpoint) for index, choice in sorted(self._gathered.items())]
        return {
            **self._shared,
            "object": ANSWER_OBJECTS[self._endpoint],
            "choices": choices,
            "usage": metered.as_openai(),
        }


class _Choice:
    """One answer, assembled from its chunks."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs: list[Mapping[str, Any]] = []
        self._finish_reason: str | None = None

    def add(self, choice: Mapping[str, Any]) -> None:
        self._texts.append(choice.get("delta", {}).get("content") or choice.get("text") or "")
        if choice.get("logprobs"):
            self._logprobs.append(choice["logprobs"])
        self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def whole(self, index: int, endpoint: Endpoint) -> dict[str, Any]:
        logprobs = joined(self._logprobs)
        choice: dict[str, Any] = {"index": index, "logprobs": logprobs, "finish_reason": self._finish_reason}
        text = "".join(self._texts)
        if endpoint is Endpoint.CHAT:
            return {**choice, "message": {"role": "assistant", "content": text, "refusal": None}}
        return {**choice, "text": text}
