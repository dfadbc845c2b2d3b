"""Prefixes of prompts that were paid for, by tenant: what a prefix cache may have saved, and so what may be billed as cached.

The engine says how much of a prompt it found in its cache, and patches may touch the engine. So this keeps its own record
of what each tenant sent and got, and bounds the engine's word by it. Patches may not touch this file
(benchmarks/policy.toml). Full blocks are known by a hash over the tenant's salt and all tokens up to their end.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

KEY_BYTES = 16  # collisions of a 128-bit hash cannot be found
RECORDS_PER_BLOCK = 4  # of the engine's pool, whose order of eviction differs from ours
MOST_RECORDS = 1 << 18  # about 60 MB, whatever size of its pool the engine claims


def records_for(n_blocks: int) -> int:
    """Number of records to keep for a pool that is said to have `n_blocks` blocks."""
    return min(RECORDS_PER_BLOCK * max(n_blocks, 1), MOST_RECORDS)


class PaidPrefixes:
    """The newest `max_blocks` full blocks of `block_tokens` tokens that were computed and paid for."""

    def __init__(self, max_blocks: int, block_tokens: int) -> None:
        self._max_blocks, self._block_tokens = max_blocks, block_tokens
        self._keys: OrderedDict[bytes, None] = OrderedDict()  # the one used longest ago first

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, salt: str, tokens: Sequence[int]) -> None:
        """Record the full blocks of these tokens."""
        for key in self._chain(salt, tokens):
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > self._max_blocks:
            self._keys.popitem(last=False)

    def most_cached(self, salt: str, tokens: Sequence[int]) -> int:
        """The most tokens at the beginning of `tokens` that a cache can hold for this salt."""
        n_blocks = 0
        for key in self._chain(salt, tokens):
            if key not in self._keys:
                break
            self._keys.move_to_end(key)
            n_blocks += 1
        return n_blocks * self._block_tokens

    def _chain(self, salt: str, tokens: Sequence[int]) -> Iterator[bytes]:
        key = blake2b(salt.encode(), digest_size=KEY_BYTES).digest()
        for end in range(self._block_tokens, len(tokens) + 1, self._block_tokens):
            block = array("q", tokens[end - self._block_tokens : end])
            key = blake2b(key + block.tobytes(), digest_size=KEY_BYTES).digest()
            yield key
