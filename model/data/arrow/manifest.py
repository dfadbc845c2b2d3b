"""The manifest of a folder of tokenised documents, and the columns of its Arrow files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
import pyarrow as pa

from model.data.errors import ShardError

T = TypeVar("T")
FORMAT = "gainshare.data/1"
MANIFEST_FILE = "manifest.json"
AGAIN = "build the data again with `python -m model.data build`"


@dataclass(frozen=True)
class Record:
    """A document's provenance: its corpus, its path in it, its licence, its text's sha256 and size."""

    source: str
    licence: str
    path: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class Shard:
    """A shard's entry in the manifest."""

    file: str
    n_documents: int
    n_tokens: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class CorpusTotals:
    """Totals of one source in a folder."""

    licence: str
    n_documents: int
    n_tokens: int
    n_bytes: int


@dataclass(frozen=True)
class Manifest:
    name: str
    tokenizer_sha256: str
    vocab_size: int
    shards: tuple[Shard, ...]
    corpora: dict[str, CorpusTotals]

    @property
    def n_documents(self) -> int:
        return sum(shard.n_documents for shard in self.shards)

    @property
    def n_tokens(self) -> int:
        return sum(shard.n_tokens for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Bytes of the texts in UTF-8."""
        return sum(corpus.n_bytes for corpus in self.corpora.values())

    @property
    def id_type(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)


def load_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises ShardError where the data is unfinished or of another version."""
    file = folder / MANIFEST_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise ShardError(f"{file} is of another version than {FORMAT!r}: {AGAIN}")
        shards = tuple(_typed(Shard, shard) for shard in document.pop("shards"))
        if not shards:
            raise ValueError("it lists no shard")
        corpora = {name: _typed(CorpusTotals, corpus) for name, corpus in document.pop("corpora").items()}
        return _typed(Manifest, {"shards": shards, "corpora": corpora, **document})
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(f"{folder} has no finished data: {MANIFEST_FILE} is missing; {AGAIN}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file, str(error)) from error


def _typed(kind: type[T], values: Mapping[str, Any]) -> T:
    """`values` as the dataclass `kind`. Raises TypeError for other names and for values of another type."""
    made = kind(**values)
    for name, hint in get_type_hints(kind).items():
        if hint in (int, str) and type(getattr(made, name)) is not hint:
            raise TypeError(f"{name} must be {'a whole number' if hint is int else 'text'}")
    return made


def schema_of(manifest: Manifest) -> Any:
    metadata = {"format": FORMAT, "name": manifest.name, "tokenizer_sha256": manifest.tokenizer_sha256}
    columns = {
        "tokens": pa.list_(pa.from_numpy_dtype(manifest.id_type)),
        "length": pa.uint32(),
        "crc32": pa.uint32(),
        "answers": pa.list_(pa.uint32()),  # start, end, start, end …
        "source": pa.string(),
        "path": pa.string(),
        "sha256": pa.binary(32),
        "n_bytes": pa.uint32(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()], metadata)


def file_sha256(file: Path) -> str:
    """SHA-256 of a file. Raises ShardError where it is missing."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise ShardError(f"{file} is missing: {AGAIN}") from None


def damaged(file: Path, why: str) -> ShardError:
    """The error that names a file, what is wrong with it and what to do."""
    return ShardError(f"{file} is damaged: {why}; {AGAIN}, or restore the file from a copy")
