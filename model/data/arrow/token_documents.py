"""Interface of tokenised documents for streams."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.unsignedinteger]
Span = tuple[int, int]  # start and end of a range of a document's tokens, the end excluded


class TokenDocuments(Protocol):
    """Interface of documents by number, which `ShardedDocuments` implements."""

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
