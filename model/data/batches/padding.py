"""Share of padding that three ways of batching leave on the same lengths. Plans with numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.data.batches.batching import bucket, cells
from model.data.batches.order import keyed_order
from model.data.batches.packing import cut, pack, padding_share


@dataclass(frozen=True)
class PaddingShares:
    """Share of padding in all computed positions."""

    padded: float  # batches of equal height in shuffled order, each as wide as its longest
    bucketed: float  # batches of similar lengths under the same token budget
    packed: float  # several pieces a sequence, best fit


def padding_shares(
    lengths: Sequence[int] | NDArray[np.int64], sequence_length: int, batch_tokens: int, seed: int = 0
) -> PaddingShares:
    """Shares of padding for documents with these lengths, cut where they are longer than a sequence.

    All three have `batch_tokens` positions a batch at most. Raises ValueError where that is below the sequence length,
    and for lengths below 1.
    """
    if sequence_length < 1:
        raise ValueError(f"the sequence length must be at least 1, not {sequence_length}")
    if batch_tokens < sequence_length:
        raise ValueError(f"batch_tokens must be at least the sequence length of {sequence_length}")
    if any(length < 1 for length in lengths):
        raise ValueError("a document has at least one token")
    pieces_N = np.array(
        [piece for length in lengths for piece in cut(int(length), sequence_length)], np.int64
    )
    order = keyed_order(len(pieces_N), ("padding", seed)).tolist()
    height = batch_tokens // sequence_length
    shuffled = [order[start : start + height] for start in range(0, len(order), height)]
    return PaddingShares(
        padded=padding_share(pieces_N, cells(pieces_N, shuffled)),
        bucketed=padding_share(pieces_N, cells(pieces_N, bucket(pieces_N, batch_tokens))),
        packed=padding_share(pieces_N, len(pack(pieces_N, sequence_length)) * sequence_length),
    )
