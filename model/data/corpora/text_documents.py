"""Documents as text with their provenance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TextDocument:
    """A text, or a question in `text` and its `answer`.

    `path` names it within its corpus, the same on every machine. `origin` names its source: documents of one origin
    stay on one side of the split, for example a module's source, its docstrings and the instructions made from them.
    """

    corpus: str
    licence: str
    path: str
    origin: str
    text: str
    answer: str | None = None

    @property
    def whole(self) -> str:
        return self.text if self.answer is None else f"{self.text}\n{self.answer}"

    @property
    def n_bytes(self) -> int:
        return len(self._encoded)

    def first_bytes(self, n_bytes: int) -> str:
        """The first whole characters within `n_bytes` of UTF-8."""
        return self._encoded[:n_bytes].decode("utf-8", errors="ignore")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._encoded).hexdigest()

    @property
    def normalised_sha256(self) -> str:
        """SHA-256 that is equal for texts that differ in case and white space only."""
        return hashlib.sha256(" ".join(self.whole.casefold().split()).encode("utf-8", "replace")).hexdigest()

    @cached_property
    def _encoded(self) -> bytes:
        return self.whole.encode("utf-8", errors="replace")
