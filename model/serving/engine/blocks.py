"""Block pool: which sequences hold which block of the key/value cache, and which full blocks can be reused.

A block is a number; the executor owns its content. A held block counts its holders, so that several sequences may share
it. Full blocks are known by the hash of all tokens up to their end (Kwon et al. 2023, arXiv:2309.06180); when no
sequence holds such a block any more it can still be found until its space is needed, the least recently used first.
Where all layers have a window, a table begins with `GONE` for blocks that all of them have passed. Has no requests,
tensors, threads or clock.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

KEY_BYTES = (
    16  # collisions of a 128-bit hash cannot be found; a salt also hides the prefixes of other tenants
)

GONE = -1  # in a block table: no later token attends to this block


class NoBlockError(Exception):
    """All blocks are held: a sequence must release some first."""


def root_key(salt: str) -> bytes:
    """The start of a chain of block keys. Chains of different salts never meet, so they share no prefix."""
    return blake2b(salt.encode(), digest_size=KEY_BYTES).digest()


def next_key(key: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block of `tokens` behind the block (or root) of `key`."""
    return blake2b(key + array("q", tokens).tobytes(), digest_size=KEY_BYTES).digest()


def first_seen_block(n_tokens: int, window: int | None, block_tokens: int) -> int:
    """Index of the first block that tokens after the first `n_tokens` attend to.

    Each sees `window` tokens, itself included, or all if None. If no past token is seen, the result is the past's end.
    """
    return 0 if window is None else max(n_tokens - window + 1, 0) // block_tokens


class BlockPool:
    """`n_blocks` blocks of `block_tokens` tokens; each is free, held by a sequence, or idle: kept for its content only."""

    def __init__(self, n_blocks: int, block_tokens: int) -> None:
        if n_blocks < 1 or block_tokens < 1:
            raise ValueError(
                f"a pool needs at least one block of one token, not {n_blocks} blocks of {block_tokens} tokens"
            )
        self.n_blocks, self.block_tokens = n_blocks, block_tokens
        self.n_evicted = 0  # blocks whose content was dropped for space
        self.changes = 0  # grows whenever a block gets or loses a holder
        self.sharing_changes = 0  # grows whenever a block gets its second holder or loses the last but one
        self._holders: Counter[int] = Counter()  # of blocks that were ever held
        self._n_touched = 0  # blocks from here on were never held: memory that was never written stays unused
        self._free: dict[int, None] = {}  # a set that gives back the last one added first
        self._idle: dict[int, None] = {}  # longest unused first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def n_available(self) -> int:
        """Blocks that `allocate` can give, idle ones included."""
        return self.n_blocks - self._n_touched + len(self._free) + len(self._idle)

    @property
    def n_held(self) -> int:
        return self.n_blocks - self.n_available

    @property
    def n_idle(self) -> int:
        return len(self._idle)

    def holders(self, block: int) -> int:
        return self._holders[block]

    def blocks_for(self, n_tokens: int) -> int:
        """Number of blocks for so many tokens, the last one possibly not full."""
        return -(-n_tokens // self.block_tokens)

    def allocate(self, after: int | None = None) -> int:
        """Allocate a block for one holder, its content undefined; the one after `after` if that is free.

        Neighbours let an executor read a sequence's past in one piece. Raises NoBlockError.
        """
        block = self._take(after)
        self._holders[block] = 1
        self.changes += 1
        return block

    def _take(self, after: int | None) -> int:
        if after is not None:
            if after + 1 in self._free:
                del self._free[after + 1]
                return after + 1
            if after + 1 == self._n_touched < self.n_blocks:
                return self._take_untouched()
        if self._free:
            return self._free.popitem()[0]
        if self._n_touched < self.n_blocks:
            return self._take_untouched()
        if not self._idle:
            raise NoBlockError(f"all {self.n_blocks} blocks are held")
        block = next(iter(self._idle))
        del self._idle[block]
        self._forget(block)
        self.n_evicted += 1
        return block

    def _take_untouched(self) -> int:
        self._n_touched += 1
        return self._n_touched - 1

    def share(self, block: int) -> None:
        """Add a holder to a held or an idle block."""
        holders = self._holders[block]
        if holders == 0:
            del self._idle[block]  # KeyError: a free block has nothing to share
        else:
            self.sharing_changes += 1
        self._holders[block] = holders + 1
        self.changes += 1

    def release(self, block: int) -> None:
        """Remove a holder."""
        holders = self._holders[block]
        assert holders > 0, f"block {block} is released but has no holder"
        self._holders[block] = holders - 1
        self.changes += 1
        if holders > 1:
            self.sharing_changes += 1
        elif block in self._key_of:
            self._idle[block] = None
        else:
            self._free[block] = None

    def release_all(self, blocks: Sequence[int]) -> None:
        """Release a sequence's blocks, the last first, so that the start of a prefix is evicted after its continuation."""
        for block in reversed(blocks):
            self.release(block)

    def register(self, block: int, key: bytes) -> None:
        """Enter a held, full block under its key. A block with the same key that is entered already stays."""
        assert self._holders[block] > 0, f"block {block} is registered but has no holder"
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def find(self, keys: Iterable[bytes], window: int | None = None) -> list[int]:
        """Find the blocks of the longest usable prefix of a chain, without holding them.

        A prefix is usable if all its blocks are known except those that no later token attends to, which are `GONE`.
        """
        found: list[int] = []
        n_usable, last_unknown = 0, -1
        for index, key in enumerate(keys):
            block = self._block_of.get(key)
            if block is None:
                if window is None:
                    break
                last_unknown = index
            found.append(GONE if block is None else block)
            if last_unknown < self._first_seen(index + 1, window):
                n_usable = index + 1
        n_gone = self._first_seen(n_usable, window)
        return [GONE] * n_gone + found[n_gone:n_usable]

    def _first_seen(self, n_blocks: int, window: int | None) -> int:
        return first_seen_block(n_blocks * self.block_tokens, window, self.block_tokens)

    def n_idle_among(self, blocks: Iterable[int]) -> int:
        return sum(self._holders[block] == 0 for block in blocks)

    def forget(self, blocks: Iterable[int]) -> None:
        """Remove held blocks from the index: their content is not valid."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is forgotten but has no holder"
            self._forget(block)

    def forget_content(self, keys: Iterable[bytes]) -> None:
        """Remove keys from the index; blocks that were kept for them alone become free."""
        for key in keys:
            block = self._block_of.get(key)
            if block is not None:
                self._forget(block)
                if block in self._idle:
                    del self._idle[block]
                    self._free[block] = None

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
