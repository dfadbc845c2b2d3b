"""Cache of a teacher's outputs on disk: the likeliest next tokens at each position of each piece of text.

A piece attends to itself alone: a row of a batch, or a packed document's part of one. A model's outputs for it depend
on its tokens only, so pieces are found by a hash of their tokens, in any packing and order; a document cut at other
places (another sequence length) gives other pieces. `manifest.json` names the teacher, tokenizer, temperature and k;
shards are safetensors files that appear whole or not at all.

Shapes: P pieces and N tokens of a shard, K likeliest tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from model.config import ConfigError, require_types
from model.data.arrow.mapped_size import MappedSize
from model.data.batches.batch import PADDING, Batch
from model.distill.divergence import TopK
from model.distill.errors import CacheError
from model.distill.teacher import scored
from model.training.config.temperature import require_temperature

FORMAT = "gainshare.teacher/1"
MANIFEST = "manifest.json"
REBUILD = "compute the cache again into an empty folder"
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Manifest:
    """Properties of all shards of a cache."""

    teacher: str  # identity.model_sha256
    tokenizer: str  # identity.tokenizer_sha256
    vocab_size: int
    k: int
    temperature: float
    format: str = FORMAT

    def __post_init__(self) -> None:
        require_types(self)
        if not 1 <= self.k <= self.vocab_size:
            raise ConfigError(f"Manifest.k must be from 1 to vocab_size ({self.vocab_size}), not {self.k}")
        require_temperature(self.temperature)


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one row that attend to each other only."""

    row: int
    start: int
    stop: int
    digest: bytes


@dataclass(frozen=True)
class _Shard:
    """An open shard, mapped into memory."""

    file: Any
    size: MappedSize


@dataclass(frozen=True)
class _Place:
    shard: Path
    start: int
    length: int


class CachedTeacher:
    """A `teacher.Teacher` that reads a cache. Shards are memory-mapped and read when needed."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._places: dict[bytes, _Place] = {}
        self._shards: dict[Path, _Shard] = {}
        for shard in sorted(folder.glob("shard-*.safetensors")):
            self._add(shard)

    @classmethod
    def open(cls, folder: Path) -> CachedTeacher:
        """Open a cache. Raises CacheError where there is none or a shard is damaged."""
        try:
            document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            manifest = Manifest(**document)
        except FileNotFoundError:
            raise CacheError(
                f"{folder} has no teacher's cache: fill it with `python -m model.distill fill`"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ConfigError) as error:
            raise CacheError(f"{folder / MANIFEST} cannot be read ({error}): {REBUILD}") from error
        if manifest.format != FORMAT:
            raise CacheError(
                f"{folder} has format {manifest.format!r}, this version reads {FORMAT!r}: {REBUILD}"
            )
        return cls(folder, manifest)

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def tokenizer(self) -> str:
        return self.manifest.tokenizer

    @property
    def temperature(self) -> float:
        return self.manifest.temperature

    @property
    def n_tokens(self) -> int:
        return sum(place.length for place in self._places.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(shard.stat().st_size for shard in self._shards)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def distributions(self, batch: Batch) -> TopK:
        """The top tokens at a batch's scored positions. Raises CacheError for a piece that is not in the cache."""
        B, S, k = *batch.tokens_BS.shape, self.manifest.k
        ids_BSK = torch.zeros(B, S, k, dtype=torch.int64)
        log_p_BSX = torch.zeros(B, S, k + 1)
        is_scored_BS = scored(batch).cpu()
        for piece in pieces_of(batch):
            if not is_scored_BS[piece.row, piece.start : piece.stop].any():
                continue
            ids, log_p = self._read(piece)
            ids_BSK[piece.row, piece.start : piece.stop] = ids
            log_p_BSX[piece.row, piece.start : piece.stop] = log_p
        # stored in 16 bits: normalised again, so that each row sums to one
        log_p_NX = log_p_BSX[is_scored_BS].log_softmax(-1)
        device = batch.tokens_BS.device
        return TopK(
            ids_BSK[is_scored_BS].to(device),
            log_p_NX[:, :k].to(device),
            log_p_NX[:, k].to(device),
            self.manifest.temperature,
        )

    def verify(self) -> int:
        """Read every shard and compare it with its checksum; returns their number. Raises CacheError."""
        for shard in self._shards:
            file = _opened(shard).file
            expected = file.metadata()["sha256"]
            if expected != _content_sha256({name: file.get_tensor(name) for name in file.keys()}):  # noqa: SIM118
                raise _damaged(shard)
        return len(self._shards)

    def add(self, shard: Path) -> None:
        """Add a shard that was just written."""
        self._add(shard)

    def _add(self, shard: Path) -> None:
        opened = _opened(shard)
        file = opened.file
        try:
            digests, ends = file.get_tensor("digests"), file.get_tensor("ends").tolist()
            widths = [file.get_slice(name).get_shape() for name in ("ids", "log_p")]
        except SafetensorError as error:
            raise CacheError(f"{shard} is not a shard of a cache ({error}): remove it") from error
        k, n_tokens = self.manifest.k, ends[-1] if ends else 0
        if widths != [[n_tokens, k], [n_tokens, k + 1]]:
            raise CacheError(
                f"{shard} does not have {k} likeliest tokens for {n_tokens} positions: {REBUILD}"
            )
        self._shards[shard] = opened
        starts = [0, *ends[:-1]]
        for digest, start, end in zip(digests, starts, ends, strict=True):
            self._places[digest.tobytes()] = _Place(shard, start, end - start)

    def _read(self, piece: Piece) -> tuple[Tensor, Tensor]:
        place = self._places.get(piece.digest)
        if place is None:
            raise CacheError(
                f"{self.folder} has no entry for a piece of {piece.stop - piece.start} tokens: compute the cache for "
                "the same documents, tokenizer and sequence length that the student trains on"
            )
        shard, part = self._shards[place.shard], slice(place.start, place.start + place.length)
        if lost := shard.size.lost():
            raise _damaged(place.shard, f" ({lost})")
        file = shard.file
        ids: NDArray[Any] = file.get_slice("ids")[part]
        log_p: NDArray[Any] = file.get_slice("log_p")[part]
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(log_p.astype(np.float32))


def pieces_of(batch: Batch) -> Iterator[Piece]:
    """The runs of equal document numbers of each row, padding left out."""
    tokens, documents = batch.tokens_BS.cpu().numpy(), batch.documents_BS.cpu().numpy()
    for row in range(tokens.shape[0]):
        changes = np.flatnonzero(np.diff(documents[row])) + 1
        bounds = [0, *changes.tolist(), tokens.shape[1]]
        for start, stop in pairwise(bounds):
            if documents[row, start] != PADDING:
                yield Piece(row, start, stop, digest_of(tokens[row, start:stop]))


def digest_of(tokens: NDArray[np.int64]) -> bytes:
    return hashlib.blake2b(tokens.astype("<i8").tobytes(), digest_size=DIGEST_BYTES).digest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a cache's manifest. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(manifest), indent=2) + "\n"
    _write_whole(folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))


def write_shard(folder: Path, number: int, pieces: Iterable[tuple[bytes, TopK]], vocab_size: int) -> Path:
    """Write pieces with the teacher's outputs as a new shard. Raises OSError with nothing left behind."""
    digests, answers = zip(*pieces, strict=True)
    id_type = np.uint16 if vocab_size <= 2**16 else np.int32
    log_p = torch.cat([torch.cat((a.log_p_NK, a.log_rest_N[:, None]), dim=-1) for a in answers])
    tensors: dict[str, NDArray[Any]] = {
        "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES),
        "ends": np.cumsum([len(answer) for answer in answers], dtype=np.int64),
        "ids": torch.cat([answer.ids_NK for answer in answers]).cpu().numpy().astype(id_type),
        "log_p": log_p.half().cpu().numpy(),
    }
    metadata = {"format": FORMAT, "sha256": _content_sha256(tensors)}
    path = folder / f"shard-{number:06d}.safetensors"
    try:
        _write_whole(path, lambda partial: save_file(tensors, partial, metadata))
    except SafetensorError as error:  # the library's error when the disk is full
        raise OSError(f"{path} cannot be written: {error}") from error
    return path


def _content_sha256(tensors: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}\0".encode() + array.tobytes())
    return digest.hexdigest()


def _opened(shard: Path) -> _Shard:
    try:
        size = MappedSize(shard)  # read before the file is mapped
        return _Shard(safe_open(shard, framework="numpy"), size)
    except (OSError, SafetensorError) as error:
        raise CacheError(
            f"{shard} cannot be used ({error}): remove it, then compute the cache again to fill the gap"
        ) from error


def _damaged(shard: Path, why: str = "") -> CacheError:
    return CacheError(f"{shard} is damaged{why}: remove it, then compute the cache again to fill the gap")


def _write_whole(path: Path, write: Any) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
