"""Split documents into training and held-out ones, without the same text on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.data.corpora.text_documents import TextDocument

SHINGLE_WORDS = 13  # as GPT-3's search for contamination (Brown et al. 2020, arXiv:2005.14165, appendix C)
COPIED_SHARE = 0.5
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Progress = Callable[[int, int], None]  # documents done, of how many


@dataclass(frozen=True)
class Split:
    """Documents of both sides in the given order, and the number of documents left out."""

    train: tuple[TextDocument, ...]
    held_out: tuple[TextDocument, ...]
    n_duplicates: int  # equal to an earlier document except for case and white space
    n_copies: int  # held-out documents whose text is mostly in training documents


def split(
    documents: Sequence[TextDocument], held_out_share: float, progress: Progress = lambda done, total: None
) -> Split:
    """Split documents by the hash of their origin's name, so that further documents never move others.

    Of documents that are equal except for case and white space the first one stays. A held-out document is dropped if
    half or more of its runs of `SHINGLE_WORDS` words are also in training documents; a shorter one, if it is there whole.
    Raises ValueError for a share that is not between 0 and 1.
    """
    if not 0 <= held_out_share <= 1:
        raise ValueError(f"held_out_share must be between 0 and 1, not {held_out_share}")
    kept = _without_duplicates(documents)
    sides: tuple[list[TextDocument], list[TextDocument]] = ([], [])
    for document in kept:
        sides[is_held_out(document.origin, held_out_share)].append(document)
    train, held_out = sides
    copied = copied_shares(held_out, train, progress)
    own = [document for document, share in zip(held_out, copied, strict=True) if share < COPIED_SHARE]
    return Split(tuple(train), tuple(own), len(documents) - len(kept), len(held_out) - len(own))


def is_held_out(origin: str, share: float) -> bool:
    number = int.from_bytes(hashlib.sha256(origin.encode("utf-8", "replace")).digest()[:8], "big")
    return number < share * 2**64


def copied_shares(
    documents: Sequence[TextDocument],
    others: Sequence[TextDocument],
    progress: Progress = lambda done, total: None,
) -> list[float]:
    """Share of each document's shingles that occur in `others`. Memory grows with `documents` alone."""
    hashes: dict[str, int] = {}
    shingles = [_shingles(document.whole, hashes) for document in documents]
    if not shingles:
        return []
    known = np.unique(np.concatenate(shingles))
    is_found = np.zeros(len(known), dtype=np.bool_)
    for done, other in enumerate(others, 1):
        own = _shingles(other.whole, hashes)
        places = np.minimum(np.searchsorted(known, own), len(known) - 1)
        is_found[places[known[places] == own]] = True
        progress(done, len(others))
    return [float(is_found[np.searchsorted(known, own)].mean()) for own in shingles]


def _without_duplicates(documents: Sequence[TextDocument]) -> list[TextDocument]:
    first: dict[str, TextDocument] = {}
    for document in documents:
        first.setdefault(document.normalised_sha256, document)
    return list(first.values())


def _shingles(text: str, hashes: dict[str, int]) -> NDArray[np.uint64]:
    """Hashes of all runs of `SHINGLE_WORDS` words, or one of the whole where there are fewer; `hashes` is a cache."""
    words = text.casefold().split()
    for word in [word for word in set(words) if word not in hashes]:
        hashes[word] = int.from_bytes(
            hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        )
    words_W = np.fromiter((hashes[word] for word in words), dtype=np.uint64, count=len(words))
    size = min(SHINGLE_WORDS, len(words))
    runs = np.zeros(len(words) - size + 1, dtype=np.uint64)
    for offset in range(size):
        runs = runs * MULTIPLIER + words_W[offset : offset + len(runs)]
    return np.unique(runs)
