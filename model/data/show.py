"""Show a document or a training batch of a data folder as text."""

from __future__ import annotations

import torch

from model.data.arrow.data_folder import DataFolder, Side
from model.data.batches.batch import IGNORED, PADDING
from model.data.batches.curriculum import Curriculum, Stage
from model.data.batches.stream import WIDTH_MULTIPLE, DataStream
from model.data.errors import DataError


def show_document(data: DataFolder, kind: str, side: Side, document: int) -> str:
    """Provenance and text; the scored part of an instruction is between marks. Raises DataError."""
    documents = data.documents(kind, side)
    if not 0 <= document < len(documents):
        raise DataError(f"{kind}/{side} has documents 0 to {len(documents) - 1}, not {document}")
    ids, record = documents.tokens(document).tolist(), documents.record(document)
    head = (
        f"{record.path} ({record.source}, {record.licence}): {len(ids):,} tokens, {record.n_bytes:,} bytes, "
        f"sha256 {record.sha256}"
    )
    parts, done = [], 0
    for start, end in documents.answers(document):
        parts += [
            data.tokenizer.decode(ids[done:start]),
            "[scored>",
            data.tokenizer.decode(ids[start:end]),
            "<scored]",
        ]
        done = end
    return "\n".join([head, "".join(parts) + data.tokenizer.decode(ids[done:])])


def show_batch(data: DataFolder, kind: str, side: Side, sequence_length: int, seed: int) -> str:
    """The pieces of one packed sequence, each with its positions, how many are scored, and its text."""
    stage = Stage(kind, 1.0, {kind: 1.0}, sequence_length)
    batch_tokens = -(-sequence_length // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    stream = DataStream(
        {kind: data.documents(kind, side)},
        Curriculum((stage,), total_tokens=sequence_length),
        batch_tokens=batch_tokens,
        seed=seed,
        window_tokens=64 * batch_tokens,
    )
    batch = next(stream).rows(0, 1)
    lines = [f"{batch.n_tokens} of {batch.n_cells} positions hold tokens, {batch.n_targets} are scored"]
    for number in torch.unique(batch.documents_BS).tolist():
        is_here = batch.documents_BS == number
        if number == PADDING:
            continue
        scored = int((batch.targets_BS[is_here] != IGNORED).sum())
        text = data.tokenizer.decode(batch.tokens_BS[is_here].tolist())
        lines.append(f"--- piece {number}: {int(is_here.sum())} positions, {scored} scored\n{text}")
    return "\n".join(lines)
