"""Interface of tokenised documents for streams, and an in-memory implementation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.unsignedinteger]
Span = tuple[int, int]  # start and end of a range of a document's tokens, the end excluded


class TokenDocuments(Protocol):
    """Interface of documents by number: `ShardedDocuments` on disk, `MemoryDocuments` in memory."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal documents in equal order."""

    def tokens(self, document: int) -> Ids:
        """All ids of one document."""

    def answers(self, document: int) -> tuple[Span, ...]:
        """The ranges of tokens that instruction data is scored on; empty where every token is scored."""


@dataclass(frozen=True)
class MemoryDocuments:
    """Documents given as ids. Raises ValueError for answers outside their document."""

    ids: Sequence[Sequence[int]]
    spans: Sequence[tuple[Span, ...]] = ()

    def __post_init__(self) -> None:
        if self.spans and len(self.spans) != len(self.ids):
            raise ValueError("MemoryDocuments.spans needs one entry per document, or none at all")
        for ids, spans in zip(self.ids, self.spans, strict=False):
            if any(not 0 <= start < end <= len(ids) for start, end in spans):
                raise ValueError(f"answers {spans} are outside of their document of {len(ids)} tokens")

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        content = repr([list(ids) for ids in self.ids]) + repr(list(self.spans))
        return hashlib.sha256(content.encode()).hexdigest()

    def tokens(self, document: int) -> Ids:
        return np.asarray(self.ids[document], dtype=np.uint32)

    def answers(self, document: int) -> tuple[Span, ...]:
        return self.spans[document] if self.spans else ()
