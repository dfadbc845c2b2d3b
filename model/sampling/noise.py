"""Random numbers of a draw: one Gumbel variate per token, a pure function of seed, output index and token.

Adding independent Gumbel noise to logits and taking the maximum draws from their softmax (Gumbel-max; Maddison et al.
2014, arXiv:1411.0030). Keyed by token instead of one number for an inverse distribution function, a draw changes only
where two tokens were nearly even, so rounding of the logits (another batch, another kernel) seldom changes it; and
it may look at the tokens in any order or leave out those that cannot be drawn.
"""

from __future__ import annotations

import functools
import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

_MASK = 2**32 - 1


def key(seed: int, index: int) -> int:
    """64 bits for the draw of output token `index`; both arguments below 2^64."""
    return int.from_bytes(hashlib.blake2b(struct.pack("<QQ", seed, index), digest_size=8).digest(), "little")


def derived_seed(seed: int, i: int) -> int:
    """The seed, below 2^63, of the i-th of several answers to one request."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, i), digest_size=8, person=b"answer").digest()
    return int.from_bytes(digest, "little") >> 1


@functools.lru_cache(maxsize=8)
def all_tokens(vocab_size: int) -> NDArray[np.uint32]:
    """The ids 0 ... V-1 for `gumbel`; shared, must not be changed."""
    ids_V = np.arange(vocab_size, dtype=np.uint32)
    ids_V.setflags(write=False)
    return ids_V


def gumbel(key: int, ids: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Standard Gumbel variates [n] of the given tokens, each in (-2.9, 23).

    From 32 random bits each, so a token of probability below 2^-33 is never drawn.
    """
    uniform = _hashed(key, ids).astype(np.float32)
    uniform += np.float32(0.5)
    uniform *= np.float32(-(2.0**-32))
    np.maximum(
        uniform, np.float32(2.0**-24 - 1), out=uniform
    )  # the largest round to 1, whose logarithm is infinite
    np.log1p(
        uniform, out=uniform
    )  # minus an exponential variate, exact where it is small, which decides draws
    np.negative(uniform, out=uniform)
    np.log(uniform, out=uniform)
    return np.negative(uniform, out=uniform)


def _hashed(key: int, ids: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Uniform 32 bits per id: the integer hash `triple32` (Wellons, nullprogram.com/blog/2018/07/31) with a key.

    Half of the key goes in first and half in the middle: with the first alone two draws would share their variates,
    in another order.
    """
    x = ids ^ np.uint32(key & _MASK)
    x ^= x >> np.uint32(17)
    x *= np.uint32(0xED5AD4BB)
    x ^= x >> np.uint32(11)
    x += np.uint32(key >> 32 & _MASK)
    x *= np.uint32(0xAC4C1B51)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x31848BAB)
    x ^= x >> np.uint32(14)
    return x
