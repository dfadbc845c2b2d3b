"""One answer of another server, as pieces with counters that a meter can rely on.

Counters never go down, never exceed what was allowed, and grow only with a piece. The server's counters are used if
each chunk has them; otherwise this node counts the text that it passes on, and takes the server's total at the end. The
ends of answers are held back until that total is known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.serving.api.errors import too_late, upstream_failed
from model.serving.api.event_stream import BrokenStreamError
from model.serving.api.requests import EXTENSION
from model.serving.api.tokenizer import Tokenizer
from model.serving.metering.generation import Finish
from model.serving.node.backend import Piece
from model.serving.upstream.counting import TextCount

NOT_COUNTED = ["queued_ms", "prefill_ms", "decode_ms", "device_ms", "kv_byte_ms"]


class LateError(Exception):
    """The deadline passed before the stream ended."""


@dataclass(frozen=True)
class UpstreamUsage:
    """Usage of a request on another server, without times and memory, which are unknown."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_counted_by: str  # "upstream" or "recount"
    completion_counted_by: str

    def to_openai(self) -> dict[str, Any]:
        counted_by = {
            "prompt_tokens": self.prompt_counted_by,
            "completion_tokens": self.completion_counted_by,
        }
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "gainshare": {"counted_by": counted_by, "not_counted": NOT_COUNTED},
        }


class Translation:
    """Translates one stream of chunks. `limit` is the maximum of all answers' tokens together."""

    def __init__(
        self, *, n_answers: int, n_prompt: int, prompt_source: str, limit: int, tokenizer: Tokenizer | None
    ) -> None:
        self._n_answers, self._limit = n_answers, limit
        self._texts = [TextCount(tokenizer) for _ in range(n_answers)] if tokenizer is not None else None
        self._ended: dict[int, Piece] = {}
        self._told: dict[int, int] = {}  # tokens of each answer, if the server counts them separately
        self._total: int | None = None  # the server's total, once known
        self._has_begun = False
        self.miscounted = False
        self.usage = UpstreamUsage(n_prompt, 0, 0, prompt_source, "recount")

    async def pieces(self, chunks: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[Piece]:
        """Yield the pieces. A late answer ends as it is, with the reason "deadline".

        Raises ApiError: 502 for streams that break off or contradict themselves, 504 for late ones without any piece.
        """
        try:
            async for chunk in chunks:
                if "error" in chunk:
                    raise upstream_failed(f"it reports: {_message(chunk['error'])}")
                choices = chunk.get("choices") or ()
                self._take_usage(chunk.get("usage"), choices)
                for choice in choices:
                    piece = self._piece(choice)
                    if piece is not None:
                        yield piece
            self._check_complete()
        except LateError as error:
            if not self._has_begun:
                raise too_late() from error
            self._end_late()
        except (BrokenStreamError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise upstream_failed(f"{type(error).__name__}: {error}") from error
        for piece in self._last():
            yield piece

    def _piece(self, choice: Mapping[str, Any]) -> Piece | None:
        """The piece of one choice; None if it only ends its answer, which is reported last."""
        index = _index(choice)
        if not 0 <= index < self._n_answers or index in self._ended:
            raise upstream_failed(f"answer {index} was not asked for, or has ended already")
        text = str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
        self._has_begun |= bool(text)
        if self._texts is not None:
            self._texts[index].push(text)
        self._count()
        piece = Piece(text, self.usage, index, None, choice.get("logprobs"))
        if choice.get("finish_reason") is None:
            return piece
        self._ended[index] = replace(piece, finish=str(choice["finish_reason"]))
        return None

    def _take_usage(self, usage: Any, choices: Sequence[Mapping[str, Any]]) -> None:
        """Read the usage of a chunk: in a chunk with choices vLLM and SGLang count only its own answer."""
        if not isinstance(usage, Mapping):
            return
        self._total = int(usage.get("completion_tokens") or 0)
        if choices and EXTENSION not in usage:  # a node of ours counts all answers in each chunk
            self._told.update({_index(choice): self._total for choice in choices})
            self._total = sum(self._told.values())
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        told = int(usage.get("prompt_tokens") or self.usage.prompt_tokens)
        self.miscounted |= told != self.usage.prompt_tokens
        self.usage = replace(self.usage, cached_tokens=min(cached, self.usage.prompt_tokens))

    def _count(self) -> None:
        """Update the number of tokens: the server's if known, else that of the texts so far."""
        if self._total is not None:
            n_tokens, source = self._total, "upstream"
        elif self._texts is not None:
            n_tokens, source = min(sum(text.n_tokens for text in self._texts), self._limit), "recount"
        else:
            return
        if n_tokens > self._limit:
            raise upstream_failed(f"it counts {n_tokens} tokens where {self._limit} were allowed")
        self.miscounted |= n_tokens < self.usage.completion_tokens
        n_tokens = max(n_tokens, self.usage.completion_tokens)
        self._has_begun |= n_tokens > 0
        self.usage = replace(self.usage, completion_tokens=n_tokens, completion_counted_by=source)

    def _check_complete(self) -> None:
        if len(self._ended) < self._n_answers:
            raise upstream_failed("an answer has no finish reason")
        if self._total is None and self._texts is None:
            raise upstream_failed(
                "it reports no usage, and this node has no tokenizer to count tokens: start the node with --tokenizer"
            )

    def _end_late(self) -> None:
        for index in range(self._n_answers):
            self._ended.setdefault(index, Piece("", self.usage, index, Finish.DEADLINE.value))

    def _last(self) -> list[Piece]:
        self._count()
        return [replace(piece, usage=self.usage) for _, piece in sorted(self._ended.items())]


def _index(choice: Mapping[str, Any]) -> int:
    return int(choice.get("index") or 0)


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, Mapping) else error)[:500]
