"""Fill batches with the tokens of planned pieces.

Shape suffixes: B sequences, S positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.arrow.token_documents import TokenDocuments
from model.data.batches.batch import IGNORED, PADDING, Batch
from model.data.batches.curriculum import Mask
from model.data.batches.drawing import Piece

Row = list[Piece]


def assemble(rows: Sequence[Row], sources: Mapping[str, TokenDocuments], width: int, mask: Mask) -> Batch:
    """Make a batch [len(rows), width]; padding has token 0, position 0, document `PADDING` and target `IGNORED`.

    Raises ValueError where a row does not fit the width, and what the sources raise.
    """
    shape = (len(rows), width)
    tokens_BS, positions_BS = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    documents_BS, targets_BS = np.full(shape, PADDING, np.int64), np.full(shape, IGNORED, np.int64)
    for row, pieces in enumerate(rows):
        column = 0
        for number, piece in enumerate(pieces):
            here = slice(column, column + piece.length)
            if here.stop > width:
                raise ValueError(f"a row of {here.stop} tokens or more does not fit {width} positions")
            ids = sources[piece.source].tokens(piece.document)[piece.start : piece.start + piece.length + 1]
            tokens_BS[row, here] = ids[:-1]
            positions_BS[row, here] = np.arange(piece.length)
            documents_BS[row, here] = number
            targets = ids[1:].astype(np.int64)
            if mask == "answers":
                targets[~_scored(piece, sources[piece.source].answers(piece.document))] = IGNORED
            targets_BS[row, here] = targets
            column = here.stop
    return Batch(*(torch.from_numpy(array) for array in (tokens_BS, positions_BS, documents_BS, targets_BS)))


def _scored(piece: Piece, answers: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Whether the target of each of a piece's positions, the token after it, is in an answer."""
    scored = np.full(piece.length, not answers)
    for start, end in answers:
        first = piece.start + 1
        scored[max(0, start - first) : max(0, end - first)] = True
    return scored
