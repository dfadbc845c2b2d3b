"""Cut a batch into micro-batches that are computed one after the other, to need less memory."""

from __future__ import annotations

import itertools

from model.data.batches.batch import Batch


def split(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into at most `parts` parts of nearly equal numbers of rows, as views; a part has at least one row.

    Raises ValueError for fewer than one part.
    """
    if parts < 1:
        raise ValueError("a batch is computed in at least one part")
    rows = len(batch.tokens_BS)
    parts = min(parts, rows)
    cuts = [rows * part // parts for part in range(parts + 1)]
    return [batch.rows(start, stop) for start, stop in itertools.pairwise(cuts)]
