"""Write tokenised documents as Arrow IPC shards with a manifest."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from model.data.arrow.manifest import (
    FORMAT,
    MANIFEST_FILE,
    CorpusTotals,
    Manifest,
    Record,
    Shard,
    file_sha256,
    schema_of,
)
from model.data.arrow.token_documents import Ids, Span
from model.data.errors import DataError
from model.new_folder import new_folder

SHARD_TOKENS = 16_000_000  # 32 MB of two-byte ids


@dataclass(frozen=True)
class TokenisedDocument:
    record: Record
    ids: Sequence[int]
    answers: tuple[Span, ...] = ()


@dataclass(frozen=True)
class _Open:
    """A document of the unwritten shard, with ids in the width of its file."""

    record: Record
    ids: Ids
    answers: tuple[Span, ...]


class ShardWriter:
    """Collects documents and writes a shard whenever `shard_tokens` are reached. Use `write_shards`."""

    def __init__(
        self, folder: Path, name: str, tokenizer_sha256: str, vocab_size: int, shard_tokens: int
    ) -> None:
        self._folder, self._shard_tokens = folder, shard_tokens
        self._manifest = Manifest(name, tokenizer_sha256, vocab_size, (), {})
        self._open: list[_Open] = []
        self._open_tokens = 0
        self._totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._licences: dict[str, str] = {}
        self._shards: list[Shard] = []

    def add(self, document: TokenisedDocument) -> None:
        """Add a document. Raises ValueError for an empty one, ids outside the vocabulary, or answers outside of it."""
        ids = np.asarray(document.ids, dtype=np.int64)
        vocab_size, path = self._manifest.vocab_size, document.record.path
        if not ids.size or ids.min() < 0 or ids.max() >= vocab_size:
            raise ValueError(f"{path}: ids must be 0..{vocab_size - 1}, at least one")
        if any(not 0 <= start < end <= ids.size for start, end in document.answers):
            raise ValueError(f"{path}: answers {document.answers} are outside of {ids.size} tokens")
        record = document.record
        if self._licences.setdefault(record.source, record.licence) != record.licence:
            raise ValueError(f"source {record.source} has two licences: give each its own source name")
        self._open.append(_Open(record, ids.astype(self._manifest.id_type), document.answers))
        self._open_tokens += ids.size
        for index, value in enumerate((1, ids.size, record.n_bytes)):
            self._totals[record.source][index] += value
        if self._open_tokens >= self._shard_tokens:
            self._write()

    def finish(self) -> Manifest:
        """Write the last shard and the manifest. Raises DataError where nothing was added."""
        if self._open:
            self._write()
        if not self._shards:
            raise DataError(f"{self._manifest.name} has no documents: nothing can be trained on it")
        corpora = {
            name: CorpusTotals(self._licences[name], *totals) for name, totals in sorted(self._totals.items())
        }
        manifest = replace(self._manifest, shards=tuple(self._shards), corpora=corpora)
        document = {"format": FORMAT, **asdict(manifest)}
        (self._folder / MANIFEST_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return manifest

    def _write(self) -> None:
        batch = _record_batch(self._open, self._manifest)
        file = self._folder / f"{len(self._shards):05}.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        shard = Shard(file.name, len(self._open), self._open_tokens, file.stat().st_size, file_sha256(file))
        self._shards.append(shard)
        self._open, self._open_tokens = [], 0


@contextmanager
def write_shards(
    folder: Path,
    *,
    name: str,
    tokenizer_sha256: str,
    vocab_size: int,
    shard_tokens: int = SHARD_TOKENS,
) -> Iterator[ShardWriter]:
    """Context with a writer whose folder appears, whole, when the block ends without an error.

    Raises FolderTakenError where the folder holds something, DataError where no document came, and OSError where the
    disk refuses.
    """
    with new_folder(folder) as partial:
        writer = ShardWriter(partial, name, tokenizer_sha256, vocab_size, shard_tokens)
        yield writer
        writer.finish()


def _record_batch(documents: Sequence[_Open], manifest: Manifest) -> Any:
    schema = schema_of(manifest)
    ids = [document.ids for document in documents]
    flat_answers = [[bound for span in document.answers for bound in span] for document in documents]
    records = [document.record for document in documents]
    columns = [
        pa.ListArray.from_arrays(
            _offsets(ids), pa.array(np.concatenate(ids)), type=schema.field("tokens").type
        ),
        pa.array([len(document) for document in ids], pa.uint32()),
        pa.array([zlib.crc32(document.data) for document in ids], pa.uint32()),
        pa.array(flat_answers, schema.field("answers").type),
        pa.array([record.source for record in records], pa.string()),
        pa.array([record.path for record in records], pa.string()),
        pa.array([bytes.fromhex(record.sha256) for record in records], pa.binary(32)),
        pa.array([record.n_bytes for record in records], pa.uint32()),
    ]
    return pa.record_batch(columns, schema=schema)


def _offsets(parts: Sequence[Any]) -> Any:
    return pa.array(np.cumsum([0, *(len(part) for part in parts)]), pa.int32())
