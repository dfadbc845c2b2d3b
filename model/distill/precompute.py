"""Fill a teacher's cache from batches; resume where an earlier run stopped, however it ended."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.data.batches.batch import IGNORED, PADDING, Batch
from model.distill.cache import (
    MANIFEST,
    CachedTeacher,
    Manifest,
    Piece,
    pieces_of,
    write_manifest,
    write_shard,
)
from model.distill.divergence import TopK, top_k_of
from model.distill.errors import CacheError
from model.distill.identity import model_sha256
from model.distill.teacher import LiveTeacher
from model.training.config.temperature import require_temperature

SHARD_TOKENS = 1 << 16  # at most this much work is lost with a killed run; 12 MB at k = 32


@dataclass(frozen=True)
class Precomputed:
    """Result of a run. Tokens of pieces in the cache were not computed again."""

    n_computed: int
    n_known: int
    folder: Path


Report = Callable[[int, int], None]  # tokens computed, tokens already known


def precompute(
    folder: Path,
    teacher: LiveTeacher,
    batches: Iterable[Batch],
    *,
    k: int = 32,
    temperature: float = 2.0,
    report: Report = lambda _computed, _known: None,
    shard_tokens: int = SHARD_TOKENS,
) -> Precomputed:
    """Run the teacher on all pieces of the batches that the cache does not have yet.

    The probability of all other tokens is kept as a whole, see `divergence.py`. Raises CacheError where the folder has
    another teacher's cache or another process fills it, ValueError for an invalid k or temperature, and
    OSError (full disk) with all finished shards kept.
    """
    require_temperature(temperature)
    if not 1 <= k <= teacher.vocab_size:
        raise ValueError(f"k must be from 1 to the vocabulary's {teacher.vocab_size} tokens, not {k}")
    digest = model_sha256(teacher.model, teacher.model.config)
    manifest = Manifest(digest, teacher.tokenizer, teacher.vocab_size, k, temperature)
    with _only_one(folder):
        cache = _opened(folder, manifest)
        writer = _Writer(cache, shard_tokens)
        n_computed = n_known = 0
        for batch in batches:
            new = [piece for piece in pieces_of(batch) if piece.digest not in writer]
            n_new = sum(piece.stop - piece.start for piece in _different(new))
            if new:
                _compute(teacher, batch, new, manifest, writer)
            n_computed += n_new
            n_known += batch.n_tokens - n_new
            report(n_computed, n_known)
        writer.flush()
    return Precomputed(n_computed, n_known, folder)


class _Writer:
    """Collects the teacher's outputs and writes them a shard at a time."""

    def __init__(self, cache: CachedTeacher, shard_tokens: int) -> None:
        self._cache, self._shard_tokens = cache, shard_tokens
        self._waiting: dict[bytes, TopK] = {}
        self._n_waiting = 0

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._waiting or digest in self._cache

    def put(self, digest: bytes, answer: TopK) -> None:
        self._waiting[digest] = answer
        self._n_waiting += len(answer)
        if self._n_waiting >= self._shard_tokens:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        folder = self._cache.folder
        taken = [int(path.stem.rpartition("-")[2]) for path in folder.glob("shard-*.safetensors")]
        number = max(taken, default=-1) + 1
        self._cache.add(write_shard(folder, number, self._waiting.items(), self._cache.vocab_size))
        self._waiting.clear()
        self._n_waiting = 0


def _compute(
    teacher: LiveTeacher, batch: Batch, new: list[Piece], manifest: Manifest, writer: _Writer
) -> None:
    """Compute rows with new pieces, at every position, scored or not, since masks may change."""
    rows = sorted({piece.row for piece in new})
    chosen = torch.tensor(rows, device=batch.tokens_BS.device)
    part = Batch(
        *(
            tensor.index_select(0, chosen)
            for tensor in (batch.tokens_BS, batch.positions_BS, batch.documents_BS, batch.targets_BS)
        )
    )
    everywhere_BS = torch.where(part.documents_BS == PADDING, IGNORED, 0)
    answered = replace(part, targets_BS=everywhere_BS)
    answer = top_k_of(teacher.distributions(answered), manifest.k, manifest.temperature)
    is_answered_BS = everywhere_BS != IGNORED
    place_BS = torch.full(everywhere_BS.shape, -1).masked_scatter(
        is_answered_BS.cpu(), torch.arange(len(answer))
    )
    for piece in _different(new):
        place = place_BS[rows.index(piece.row), piece.start : piece.stop].to(answer.ids_NK.device)
        ids_NK, log_p_NK = answer.ids_NK[place].cpu(), answer.log_p_NK[place].cpu()
        writer.put(piece.digest, TopK(ids_NK, log_p_NK, answer.log_rest_N[place].cpu(), answer.temperature))


def _different(pieces: list[Piece]) -> list[Piece]:
    return list({piece.digest: piece for piece in pieces}.values())


def _opened(folder: Path, manifest: Manifest) -> CachedTeacher:
    if not (folder / MANIFEST).exists():
        write_manifest(folder, manifest)
    cache = CachedTeacher.open(folder)
    for name, wanted in vars(manifest).items():
        found = getattr(cache.manifest, name)
        if found != wanted:
            raise CacheError(
                f"{folder} was made with another {name} ({str(found)[:12]}, now {str(wanted)[:12]}): use another folder"
            )
    return cache


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # released when the process ends, however it ends
        except BlockingIOError:
            raise CacheError(
                f"another process is filling {folder}: wait for it, or use another folder"
            ) from None
        yield
