"""Tokenised documents in memory, in place of a folder of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.data.arrow.token_documents import Ids, Span


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
