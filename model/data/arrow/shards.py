"""Tokenised documents on disk, mapped into memory: Arrow IPC files and a manifest.

A shard is one record batch, so that all its tokens are one array, which is read without a copy. Every document carries
its length, source, path, the sha256 of its text and a CRC-32 of its tokens, which is checked when it is first read; the
manifest has the sha256 of every file.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.data.arrow.manifest import (
    AGAIN,
    Manifest,
    Record,
    Shard,
    damaged,
    file_sha256,
    load_manifest,
    schema_of,
)
from model.data.arrow.mapped_size import MappedSize
from model.data.arrow.token_documents import Ids, Span
from model.data.errors import ShardError


class ShardedDocuments:
    """The documents of a folder, mapped into memory. Safe to read from several threads.

    Opening reads the manifest and each shard's columns but not its tokens. Raises ShardError for missing,
    unfinished or damaged data, also later, when a document is first read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = load_manifest(folder)
        self._shards = [
            _MappedShard(folder / shard.file, shard, self.manifest) for shard in self.manifest.shards
        ]
        self._ends = np.cumsum([shard.n_documents for shard in self.manifest.shards])
        self._lengths = np.concatenate([shard.lengths for shard in self._shards])
        self._lengths.setflags(write=False)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._lengths

    @property
    def fingerprint(self) -> str:
        parts = [self.manifest.tokenizer_sha256, *(shard.sha256 for shard in self.manifest.shards)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def tokens(self, document: int) -> Ids:
        """All ids of one document, a read-only view of the mapped file. Raises IndexError, ShardError."""
        shard, row = self._locate(document)
        return shard.tokens(row)

    def answers(self, document: int) -> tuple[Span, ...]:
        shard, row = self._locate(document)
        return shard.answers(row)

    def record(self, document: int) -> Record:
        shard, row = self._locate(document)
        return shard.record(row)

    def verify(self) -> None:
        """Read every byte and compare it with the manifest. Raises ShardError."""
        for shard in self.manifest.shards:
            if file_sha256(self.folder / shard.file) != shard.sha256:
                raise damaged(self.folder / shard.file, "its sha256 differs from the manifest's")

    def _locate(self, document: int) -> tuple[_MappedShard, int]:
        if not 0 <= document < len(self):
            raise IndexError(f"there is no document {document}: the folder has {len(self)}")
        index = int(np.searchsorted(self._ends, document, side="right"))
        before = int(self._ends[index - 1]) if index else 0
        return self._shards[index], document - before


class _MappedShard:
    """One shard. Its small columns are copied when it is opened, its tokens stay in the file."""

    def __init__(self, file: Path, shard: Shard, manifest: Manifest) -> None:
        self._file, self._licences = file, {name: corpus.licence for name, corpus in manifest.corpora.items()}
        batch = self._read(shard, manifest)
        tokens = batch.column("tokens")
        self._ids: Ids = tokens.values.to_numpy(zero_copy_only=True)
        self._starts: NDArray[np.int64] = tokens.offsets.to_numpy().astype(np.int64)
        self.lengths: NDArray[np.int64] = np.diff(self._starts)
        stored = batch.column("length").to_numpy().astype(np.int64)
        if not np.array_equal(stored, self.lengths) or int(self._starts[-1]) != shard.n_tokens:
            raise damaged(file, "the lengths of its documents do not fit its tokens")
        self._crc32 = batch.column("crc32").to_numpy().copy()
        self._is_checked = np.zeros(len(stored), dtype=np.bool_)
        answers = batch.column("answers")
        self._answers: NDArray[np.uint32] = answers.values.to_numpy().copy()
        self._answer_starts: NDArray[np.int64] = answers.offsets.to_numpy().astype(np.int64)
        self._batch = batch

    def tokens(self, row: int) -> Ids:
        self._require_all()
        ids: Ids = self._ids[self._starts[row] : self._starts[row + 1]]
        if not self._is_checked[row]:
            if zlib.crc32(ids.data) != self._crc32[row]:
                raise damaged(self._file, f"the tokens of its document {row} are not those that were written")
            self._is_checked[row] = True
        return ids

    def answers(self, row: int) -> tuple[Span, ...]:
        flat = self._answers[self._answer_starts[row] : self._answer_starts[row + 1]].tolist()
        return tuple(zip(flat[::2], flat[1::2], strict=True))

    def record(self, row: int) -> Record:
        self._require_all()
        source, path, sha256, n_bytes = (
            self._batch.column(name)[row].as_py() for name in ("source", "path", "sha256", "n_bytes")
        )
        return Record(source, self._licences.get(source, "unknown"), path, sha256.hex(), n_bytes)

    def _require_all(self) -> None:
        if lost := self._mapped.lost():
            raise damaged(self._file, lost)

    def _read(self, shard: Shard, manifest: Manifest) -> Any:
        """Read the record batch and check its size, schema and offsets."""
        file = self._file
        try:
            self._mapped = MappedSize(file)
            if self._mapped.size_bytes != shard.size_bytes:
                raise damaged(
                    file, f"it has {self._mapped.size_bytes:,} bytes instead of {shard.size_bytes:,}"
                )
            reader = pa.ipc.open_file(pa.memory_map(str(file), "r"))
            if not reader.schema.equals(schema_of(manifest), check_metadata=True):
                raise damaged(file, "its schema or tokenizer differs from the manifest's")
            batch = reader.get_batch(0)
            batch.validate(full=True)
        except FileNotFoundError:
            raise ShardError(f"{file} is missing: {AGAIN}") from None
        except (pa.ArrowException, OSError) as error:
            raise damaged(file, str(error)) from error
        if reader.num_record_batches != 1 or batch.num_rows != shard.n_documents:
            raise damaged(file, f"it does not have the {shard.n_documents:,} documents of the manifest")
        return batch
