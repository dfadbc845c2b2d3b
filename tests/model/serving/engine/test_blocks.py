"""The block pool: no block is lost, given twice or found under a wrong key; the longest unused goes first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model.serving.engine.blocks import GONE, BlockPool, NoBlockError, next_key, root_key


def keys(*blocks: tuple[int, ...], salt: str = "") -> list[bytes]:
    chain = [root_key(salt)]
    for tokens in blocks:
        chain.append(next_key(chain[-1], tokens))
    return chain[1:]


def filled(pool: BlockPool, chain: list[bytes]) -> list[int]:
    """Blocks that one holder has computed and made findable."""
    blocks: list[int] = []
    for key in chain:
        blocks.append(pool.allocate(blocks[-1] if blocks else None))
        pool.register(blocks[-1], key)
    return blocks


def test_blocks_are_given_until_none_is_left_and_come_back() -> None:
    pool = BlockPool(3, 4)
    blocks = [pool.allocate() for _ in range(3)]
    assert sorted(blocks) == [0, 1, 2]
    with pytest.raises(NoBlockError):
        pool.allocate()
    pool.release(blocks[1])
    assert pool.allocate() == blocks[1]
    assert (pool.n_available, pool.n_held) == (0, 3)


def test_a_sequence_gets_neighbouring_blocks_where_they_are_free() -> None:
    pool = BlockPool(8, 4)
    first = pool.allocate()
    other = pool.allocate(first)
    assert other == first + 1
    taken = [pool.allocate(other)]
    pool.release(other)
    assert pool.allocate(first) == other
    assert pool.allocate(first) not in (first, other, *taken)


def test_freed_blocks_are_used_before_untouched_ones() -> None:
    pool = BlockPool(1000, 4)
    for _ in range(50):
        blocks = [pool.allocate() for _ in range(5)]
        assert max(blocks) < 5
        pool.release_all(blocks)


def test_blocks_that_were_never_held_cost_no_memory() -> None:
    pool = BlockPool(10**15, 4)  # a list of as many numbers would be refused
    block = pool.allocate()
    assert (pool.holders(block), pool.holders(block + 1)) == (1, 0)
    assert (pool.n_available, pool.n_held) == (10**15 - 1, 1)


def test_a_block_goes_only_with_its_last_holder() -> None:
    pool = BlockPool(2, 4)
    block = pool.allocate()
    pool.share(block)
    pool.release(block)
    assert pool.n_held == 1
    pool.release(block)
    assert pool.n_held == 0
    with pytest.raises(AssertionError):
        pool.release(block)


def test_every_change_of_who_holds_what_is_counted() -> None:
    """What requests hold is metered again only where this has grown."""
    pool = BlockPool(4, 4)
    counts = [pool.changes]
    block = pool.allocate()
    for change in (lambda: pool.share(block), lambda: pool.release(block), lambda: pool.release(block)):
        counts.append(pool.changes)
        change()
    assert [*counts, pool.changes] == sorted({*counts, pool.changes})
    pool.find(keys((1, 2, 3, 4)))
    assert pool.changes == 4


def test_the_longest_beginning_is_found_also_when_nobody_holds_it() -> None:
    pool = BlockPool(8, 2)
    chain = keys((1, 2), (3, 4), (5, 6))
    blocks = filled(pool, chain)
    assert pool.find(chain) == blocks
    pool.release_all(blocks)
    assert (pool.n_held, pool.n_idle) == (0, 3)
    assert pool.find(chain) == blocks
    assert pool.find(keys((1, 2), (3, 4), (9, 9))) == blocks[:2]
    assert pool.find(keys((3, 4))) == []  # the same tokens behind another past are something else
    assert pool.n_idle_among(blocks) == 3
    for block in blocks:
        pool.share(block)
    assert (pool.n_held, pool.n_idle) == (3, 0)


@given(st.sets(st.integers(0, 7)), st.none() | st.integers(1, 20))
def test_found_is_the_longest_beginning_whose_seen_blocks_are_known(
    known: set[int], window: int | None
) -> None:
    pool = BlockPool(8, 2)
    chain = keys(*[(i, i) for i in range(8)])
    blocks = filled(pool, chain)
    pool.forget_content(key for i, key in enumerate(chain) if i not in known)

    def seen(n: int) -> list[int]:
        """Blocks of the first n that the token behind them looks at, one token after the other."""
        sees = range(0 if window is None else max(0, 2 * n - window + 1), 2 * n)
        return [i for i in range(n) if 2 * i in sees or 2 * i + 1 in sees]

    n_usable = max(n for n in range(9) if known.issuperset(seen(n)))
    kept = seen(n_usable)
    assert pool.find(chain, window) == [blocks[i] if i in kept else GONE for i in range(n_usable)]


def test_contents_are_forgotten_wherever_they_lie() -> None:
    pool = BlockPool(4, 2)
    chain = keys((1, 2), (3, 4), (5, 6))
    blocks = filled(pool, chain)
    pool.release(blocks[0])
    pool.forget_content([*chain[:2], b"never seen"])
    assert pool.find(chain) == [] and pool.n_idle == 0
    assert (pool.n_held, pool.n_available) == (2, 2)
    pool.release_all(blocks[1:])
    assert (pool.n_idle, pool.n_available) == (1, 4)


def test_chains_of_different_salts_never_meet() -> None:
    pool = BlockPool(8, 2)
    filled(pool, keys((1, 2), (3, 4), salt="a"))
    assert pool.find(keys((1, 2), (3, 4), salt="b")) == []
    assert pool.find(keys((1, 2), (3, 4))) == []
    assert len(pool.find(keys((1, 2), (3, 4), salt="a"))) == 2


def test_the_longest_unused_is_evicted_first_and_a_prefix_after_what_continues_it() -> None:
    pool = BlockPool(4, 2)
    old, new = keys((1, 1), (2, 2)), keys((3, 3), (4, 4))
    for chain in (old, new):
        pool.release_all(filled(pool, chain))
    pool.allocate()
    assert (len(pool.find(old)), len(pool.find(new))) == (1, 2)
    pool.allocate()
    assert (len(pool.find(old)), len(pool.find(new))) == (0, 2)
    pool.allocate()
    assert len(pool.find(new)) == 1
    assert pool.n_evicted == 3


def test_what_was_used_again_is_evicted_later() -> None:
    pool = BlockPool(2, 2)
    first, second = keys((1, 1)), keys((2, 2))
    pool.release_all(filled(pool, first))
    pool.release_all(filled(pool, second))
    pool.share(pool.find(first)[0])
    pool.release(pool.find(first)[0])
    pool.allocate()
    assert (len(pool.find(first)), len(pool.find(second))) == (1, 0)


def test_the_first_block_of_one_content_stays_the_one_that_is_found() -> None:
    pool = BlockPool(3, 2)
    chain = keys((1, 2))
    (first,), (second,) = filled(pool, chain), filled(pool, chain)
    assert pool.find(chain) == [first]
    pool.release(second)
    assert pool.n_idle == 0  # it is free, not kept twice
    assert pool.find(chain) == [first]


def test_forgotten_blocks_are_not_found_and_not_kept() -> None:
    pool = BlockPool(4, 2)
    chain = keys((1, 2), (3, 4))
    blocks = filled(pool, chain)
    pool.forget(blocks)
    assert pool.find(chain) == []
    pool.release_all(blocks)
    assert pool.n_idle == 0
    assert pool.n_available == 4


def test_a_free_block_cannot_be_shared_or_registered() -> None:
    pool = BlockPool(2, 2)
    with pytest.raises(KeyError):
        pool.share(0)
    with pytest.raises(AssertionError):
        pool.register(0, b"key")


@pytest.mark.parametrize("sizes", [(0, 16), (4, 0)])
def test_an_empty_pool_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a pool needs"):
        BlockPool(*sizes)


@given(st.integers(0, 40), st.integers(1, 9))
def test_blocks_for_is_the_rounded_up_quotient(n_tokens: int, block_tokens: int) -> None:
    pool = BlockPool(1, block_tokens)
    needed = pool.blocks_for(n_tokens)
    assert needed * block_tokens >= n_tokens > (needed - 1) * block_tokens


class PoolMachine(RuleBasedStateMachine):
    """Any calls in any order against the plainest bookkeeping there is."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6, 2)
        self.held: list[int] = []  # one entry for each holder
        self.content: dict[int, bytes] = {}  # key of blocks that may be found

    @precondition(lambda self: len(set(self.held)) < 6)
    @rule(after=st.none() | st.integers(0, 5))
    def allocate(self, after: int | None) -> None:
        block = self.pool.allocate(after)
        assert block not in self.held
        self.held.append(block)
        self.content.pop(block, None)

    @precondition(lambda self: len(set(self.held)) == 6)
    @rule()
    def allocate_in_vain(self) -> None:
        with pytest.raises(NoBlockError):
            self.pool.allocate()

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.held.remove(block)
        self.pool.release(block)

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data(), name=st.integers(0, 3))
    def register(self, data: st.DataObject, name: int) -> None:
        block, key = data.draw(st.sampled_from(self.held)), bytes([name])
        self.pool.register(block, key)
        if block not in self.content and key not in self.content.values():
            self.content[block] = key

    @rule(name=st.integers(0, 3))
    def share_what_is_found(self, name: int) -> None:
        found = self.pool.find([bytes([name])])
        assert found == [block for block, key in self.content.items() if key == bytes([name])]
        for block in found:
            self.pool.share(block)
            self.held.append(block)

    @invariant()
    def nothing_is_lost(self) -> None:
        for block in range(6):
            assert self.pool.holders(block) == self.held.count(block)
        assert self.pool.n_held == len(set(self.held))
        assert self.pool.n_available == 6 - len(set(self.held))
        assert self.pool.n_idle == len(set(self.content) - set(self.held))


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
