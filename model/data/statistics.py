"""Statistics of a data folder, as rows for tables and JSON."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.data.arrow.data_folder import SIDES, DataFolder
from model.data.batches.padding import padding_shares


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    unit: str
    how: str


def statistics(data: DataFolder, sequence_length: int, batch_tokens: int) -> list[Row]:
    """Sizes of every kind and side, and the padding of each way of batching its training documents."""
    rows = [Row("vocabulary", data.tokenizer.vocab_size, "tokens", "of tokenizer.json")]
    for name, count in data.build["left_out"].items():
        rows.append(
            Row(f"left out: {name.replace('_', ' ')}", count, "documents", "when the folder was built")
        )
    for side in SIDES:
        for kind, documents in data.sources(side).items():
            name, manifest, lengths = f"{kind} {side}", documents.manifest, documents.lengths
            rows += [
                Row(f"{name}: documents", len(documents), "documents", "manifest"),
                Row(f"{name}: tokens", manifest.n_tokens, "tokens", "manifest"),
                Row(
                    f"{name}: bytes per token",
                    manifest.n_bytes / manifest.n_tokens,
                    "bytes",
                    "UTF-8 of the texts",
                ),
                Row(f"{name}: median length", float(np.median(lengths)), "tokens", "of a document"),
                Row(f"{name}: longest", int(lengths.max()), "tokens", "of a document"),
            ]
            if side == "train":
                shares = padding_shares(lengths, sequence_length, batch_tokens)
                how = f"sequences of at most {sequence_length}, batches of at most {batch_tokens} tokens"
                rows += [
                    Row(f"{name}: padding, shuffled", 100 * shares.padded, "%", how),
                    Row(f"{name}: padding, bucketed", 100 * shares.bucketed, "%", how),
                    Row(f"{name}: padding, packed", 100 * shares.packed, "%", how),
                ]
    return rows
