"""Requests as the gateway sends them to a node, and the answers that come back: bytes of a hostile process."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.evidence.canonical import canonical_bytes

OWNER_HEADER = "X-Gainshare-Owner"  # as `model/serving/node/app.py` reads it
HEAD_BYTES = 16_384
BYTES_PER_TOKEN = 4_096  # of a stream with counters on every chunk
MOST_TOKENS = 1 << 40  # what a counter may say


class Malformed(Exception):
    """An answer that no node gives; the message says what is wrong with it."""


@dataclass(frozen=True)
class Ask:
    """One greedy request of an owner, for exactly `output_tokens` tokens, with so many likeliest alternatives of each."""

    prompt: str | tuple[int, ...]
    output_tokens: int
    owner: str
    is_chat: bool = False
    alternatives: int = 0

    def most_bytes(self) -> int:
        """How long an answer may be."""
        return HEAD_BYTES + BYTES_PER_TOKEN * (self.output_tokens + 4)

    def encoded(self, model: str, token: str) -> bytes:
        """The request's bytes: streamed and with counters on every chunk, as the gateway asks."""
        prompt: dict[str, Any] = {"prompt": self.prompt}
        if self.is_chat:
            prompt = {"messages": [{"role": "user", "content": self.prompt}]}
        body = json.dumps(
            {
                "model": model,
                **prompt,
                **({"logprobs": self.alternatives} if self.alternatives else {}),
                "temperature": 0,
                "ignore_eos": True,
                "max_tokens": self.output_tokens,
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
        ).encode()
        path = "chat/completions" if self.is_chat else "completions"
        return request_bytes("POST", f"/v1/{path}", token, body, owner=self.owner)


def request_bytes(method: str, path: str, token: str, body: bytes = b"", *, owner: str = "") -> bytes:
    """One HTTP/1.1 request whose answer's end is the connection's."""
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: node",
        f"Authorization: Bearer {token}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *([f"{OWNER_HEADER}: {owner}"] if owner else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


@dataclass(frozen=True)
class Answer:
    """What one request was answered. The counters are the node's own words."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    counted_ms: int  # queued, prefill and decode together
    top: Mapping[str, float] = field(
        default_factory=dict
    )  # log probabilities of the last token, where asked for

    def digest(self) -> str:
        """SHA-256 in hex of what must be equal between two trees: text, reason of the end, counts of tokens."""
        return hashlib.sha256(
            canonical_bytes([self.text, self.finish, self.prompt_tokens, self.completion_tokens])
        ).hexdigest()


def read_body(raw: bytes) -> tuple[int, bytes]:
    """Status and body of a whole HTTP answer. Raises Malformed."""
    response = http.client.HTTPResponse(_Bytes(raw))  # type: ignore[arg-type]
    try:
        response.begin()
        return response.status, response.read()
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise Malformed(f"not an HTTP answer ({type(error).__name__})") from None


def read_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of an answer with status 200. Raises Malformed."""
    status, body = read_body(raw)
    if status != 200:
        raise Malformed(f"status {status}: {body[:300].decode(errors='replace')}")
    return _object(body.decode(errors="replace"))


def read_answer(raw: bytes) -> Answer:
    """The answer in a stream of chunks. Raises Malformed."""
    status, body = read_body(raw)
    if status != 200:
        raise Malformed(f"status {status}: {body[:300].decode(errors='replace')}")
    try:
        lines = body.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise Malformed("a stream that is not UTF-8") from None
    events = [line[len("data:") :].strip() for line in lines if line.startswith("data:")]
    if not events or events[-1] != "[DONE]":
        raise Malformed(f"a stream that did not end: {events[-1][:300] if events else 'it is empty'}")
    text, finish, usage = "", "", None
    top: dict[str, float] = {}
    for event in events[:-1]:
        chunk = _object(event)
        piece, end = _choice(chunk)
        text, finish = text + piece, end or finish
        usage = chunk.get("usage") or usage
        top = _alternatives(chunk) or top
    return _answer(text, finish, usage, top)


def _alternatives(chunk: dict[str, Any]) -> dict[str, float]:
    """Log probabilities of a chunk's last token, by its text; empty where it has none."""
    shown = chunk["choices"][0].get("logprobs") if chunk["choices"] else None
    if shown is None:
        return {}
    try:
        last = shown["top_logprobs"][-1]
        return {str(token): float(value) for token, value in last.items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise Malformed("log probabilities that are none") from None


def _choice(chunk: dict[str, Any]) -> tuple[str, str]:
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) > 1 or not all(isinstance(one, dict) for one in choices):
        raise Malformed("a chunk without one answer's part")
    if not choices:
        return "", ""
    delta = choices[0].get("delta")
    piece = (delta.get("content") or "") if isinstance(delta, dict) else choices[0].get("text") or ""
    end = choices[0].get("finish_reason") or ""
    if not isinstance(piece, str) or not isinstance(end, str):
        raise Malformed("a chunk whose text is no text")
    return piece, end


def _answer(text: str, finish: str, usage: Any, top: dict[str, float]) -> Answer:
    try:
        own = usage["gainshare"]
        answer = Answer(
            text,
            finish,
            _number(usage["prompt_tokens"]),
            _number(usage["completion_tokens"]),
            _number(usage["prompt_tokens_details"]["cached_tokens"]),
            sum(_number(own[name]) for name in ("queued_ms", "prefill_ms", "decode_ms")),
            top,
        )
        answer.digest()  # a lone surrogate has none
    except (KeyError, TypeError, ValueError):
        raise Malformed("counters that are missing or no numbers, or text that cannot be written") from None
    return answer


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_TOKENS:
        raise ValueError("not a count")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Malformed(f"not a JSON object: {text[:200]}")
    return value


class _Bytes:
    """What `http.client` reads an answer from."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._raw)
