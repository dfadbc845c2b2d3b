"""Draw pieces of documents from several sources at given shares, in an order that a key decides.

A source is read in epochs, each with its own order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.data.arrow.token_documents import Span, TokenDocuments
from model.data.batches.order import keyed_order
from model.data.errors import DataError


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens start..start + length - 1 of a document, each scored on the next one: the next piece's first, or the
    document's last, which is never an input. So the pieces of a document of n tokens have n - 1."""

    source: str
    document: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


def piece_at(
    source: str, document: int, n_tokens: int, answers: Sequence[Span], start: int, max_length: int
) -> Piece | None:
    """The piece of a document of `n_tokens` that begins at `start`; None if no position is left to score.

    A document with answers has one piece only, so that no answer is separated from its question.
    """
    length = min(n_tokens - 1 - start, max_length)
    if length < 1 or (answers and (start > 0 or answers[0][0] > length)):
        return None
    return Piece(source, document, start, length)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position in a source: `place` counts documents in the epoch's order, `token` the tokens within the next one."""

    epoch: int = 0
    place: int = 0
    token: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """Cursors of all sources, and the tokens drawn from each since the shares last changed."""

    cursors: Mapping[str, Cursor]
    tokens: Mapping[str, int]


class Drawer:
    """Draws from `sources`; keeps no state but a cache. Raises DataError for a source without a document of two tokens."""

    def __init__(self, sources: Mapping[str, TokenDocuments], seed: int) -> None:
        self._sources = dict(sources)
        self._seed = seed
        self._lengths = {name: np.asarray(source.lengths) for name, source in sources.items()}
        self._orders: dict[str, tuple[int, NDArray[np.int64]]] = {}
        for name, lengths in self._lengths.items():
            if not (lengths >= 2).any():
                raise DataError(
                    f"source {name!r} has no document of two tokens or more: build its data or leave it out"
                )

    def start(self) -> Drawn:
        return Drawn(dict.fromkeys(self._sources, Cursor()), dict.fromkeys(self._sources, 0))

    def draw(
        self, drawn: Drawn, mixture: Mapping[str, float], n_tokens: int, max_length: int
    ) -> tuple[list[Piece], Drawn]:
        """Draw pieces of at most `max_length` tokens, `n_tokens` in all or up to one piece more; returns cursors too.

        Each piece comes from the source that is furthest behind its share. Documents are split only where they are
        longer than `max_length`. Raises DataError where no answer of a source begins within `max_length`.
        """
        cursors, tokens = dict(drawn.cursors), dict(drawn.tokens)
        total = sum(mixture.values())
        shares = {name: weight / total for name, weight in mixture.items() if weight > 0}
        pieces: list[Piece] = []
        wanted, given = sum(tokens.values()) + n_tokens, sum(tokens.values())
        while given < wanted:
            name = max(shares, key=lambda source: shares[source] * (given + 1) - tokens[source])
            piece, cursors[name] = self._next(name, cursors[name], max_length)
            pieces.append(piece)
            tokens[name] += piece.length
            given += piece.length
        return pieces, Drawn(cursors, tokens)

    def epochs(self, drawn: Drawn) -> dict[str, float]:
        """Number of epochs of each source so far."""
        return {
            name: cursor.epoch + cursor.place / len(self._lengths[name])
            for name, cursor in drawn.cursors.items()
        }

    def _next(self, name: str, cursor: Cursor, max_length: int) -> tuple[Piece, Cursor]:
        source, lengths = self._sources[name], self._lengths[name]
        for _ in range(2 * len(lengths)):
            document = int(self._order(name, cursor.epoch)[cursor.place])
            answers, length = source.answers(document), int(lengths[document])
            piece = piece_at(name, document, length, answers, cursor.token, max_length)
            if piece is not None and not answers and piece.end < length - 1:
                return piece, replace(cursor, token=piece.end)
            is_last = cursor.place + 1 == len(lengths)
            cursor = Cursor(cursor.epoch + 1) if is_last else Cursor(cursor.epoch, cursor.place + 1)
            if piece is not None:
                return piece, cursor
        raise DataError(
            f"no document of source {name!r} has an answer that begins within {max_length} tokens: "
            "raise the sequence length or build the source with shorter questions"
        )

    def _order(self, name: str, epoch: int) -> NDArray[np.int64]:
        if self._orders.get(name, (-1,))[0] != epoch:
            order = keyed_order(len(self._lengths[name]), ("epoch", self._seed, name, epoch))
            self._orders[name] = (epoch, order)
        return self._orders[name][1]
