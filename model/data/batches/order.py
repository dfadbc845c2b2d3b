"""Permutations that depend on a key alone.

NumPy does not promise the same shuffles in every version (NEP 19), which a resumed run needs. So the order is that of
a hash, in 64-bit integers.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Key = tuple[int | str, ...]


def keyed_order(n: int, key: Key) -> NDArray[np.int64]:
    """A permutation of 0..n-1; equal keys give equal ones on every machine and version."""
    hashes = _splitmix64(np.arange(n, dtype=np.uint64) + np.uint64(_seed(key)))
    return np.argsort(hashes, kind="stable").astype(np.int64)


def _seed(key: Key) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195): a bijection."""
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
