"""Held-out batches: each token of the held-out documents once, in the same batches every time.

A mean loss over them must divide by all `Batch.n_targets` together: batches hold different numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from model.data.arrow.token_documents import TokenDocuments
from model.data.batches.assembly import Row, assemble
from model.data.batches.batch import Batch
from model.data.batches.batching import bucket
from model.data.batches.curriculum import Mask
from model.data.batches.drawing import Piece, piece_at
from model.data.batches.order import keyed_order
from model.data.batches.packing import pack

SOURCE = "held_out"


def evaluation_batches(
    source: TokenDocuments,
    *,
    sequence_length: int,
    batch_tokens: int,
    max_tokens: int | None = None,
    mask: Mask = "answers",
    is_packed: bool = True,
    rank: int = 0,
    n_ranks: int = 1,
) -> Iterator[Batch]:
    """Packed sequences of `sequence_length`, or one piece a row in batches of similar lengths; the ranks share them.

    With `max_tokens` only so many whole documents, the same every time. Every rank gets the same number of batches and
    rows, filled up with rows of padding. Raises ValueError where a batch cannot hold a sequence,
    and what the source raises.
    """
    if batch_tokens < sequence_length:
        raise ValueError(f"batch_tokens must be at least the sequence length of {sequence_length}")
    pieces = _pieces(source, sequence_length, max_tokens)
    lengths = [piece.length for piece in pieces]
    batches: list[list[Row]]
    if is_packed:
        rows = [[pieces[index] for index in row] for row in pack(lengths, sequence_length)]
        height = batch_tokens // sequence_length
        batches = [rows[start : start + height] for start in range(0, len(rows), height)]
    else:
        batches = [[[pieces[index]] for index in batch] for batch in bucket(lengths, batch_tokens)]
    for batch in batches:
        width = sequence_length if is_packed else max(row[0].length for row in batch)
        mine = batch[rank::n_ranks]
        mine += [[]] * (-(-len(batch) // n_ranks) - len(mine))
        yield assemble(mine, {SOURCE: source}, width, mask)


def _pieces(source: TokenDocuments, max_length: int, max_tokens: int | None) -> list[Piece]:
    pieces: list[Piece] = []
    n_tokens, lengths = 0, source.lengths
    for document in keyed_order(len(lengths), ("evaluation",)).tolist():
        start, answers = 0, source.answers(document)
        while piece := piece_at(SOURCE, document, int(lengths[document]), answers, start, max_length):
            pieces.append(piece)
            n_tokens += piece.length
            start = piece.end
        if max_tokens is not None and n_tokens >= max_tokens:
            break
    return pieces
