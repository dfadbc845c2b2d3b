"""The prefix cache finds what the engine's block pool would find, within an account only, and never exceeds its size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.replay.fleet import MOST_PAID_TOKENS, Nodes
from gainshare.capacity.replay.prefix_cache import ENGINE_BLOCK_TOKENS, CacheSize, PrefixCache
from gainshare.capacity.traces.requests import TraceRequest
from model.serving.engine.blocks import BlockPool, next_key, root_key
from model.serving.executors.choice import BLOCK_TOKENS

UNIT = 512


def request(*blocks: int, more: int = 100, output: int = 10, account: int = 0) -> TraceRequest:
    """A request whose prompt has these blocks and ``more`` tokens."""
    return TraceRequest(0.0, len(blocks) * UNIT + more, output, blocks, account)


def test_the_block_is_the_installed_engines() -> None:
    assert ENGINE_BLOCK_TOKENS == BLOCK_TOKENS


def test_a_prefix_is_found_in_whole_blocks() -> None:
    cache = PrefixCache(CacheSize(None), UNIT)
    assert cache.use(request(1, 2, 3)) == 0
    assert cache.find(request(1, 2, 9)) == 2 * UNIT
    assert cache.find(request(9, 2, 3)) == 0
    assert cache.use(request(1, 2, 3)) == 3 * UNIT


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    cache = PrefixCache(CacheSize(None), UNIT)
    cache.use(request(1, 2, more=0))
    assert cache.find(request(1, 2, more=0)) == UNIT
    assert cache.find(request(1, 2, more=1)) == 2 * UNIT


def test_the_least_recently_used_prefix_is_evicted_and_its_end_first() -> None:
    cache = PrefixCache(CacheSize(5 * UNIT), UNIT)
    cache.use(request(1, 2, 3, more=1, output=0))
    cache.use(request(7, more=1, output=0))
    cache.use(request(1, more=1, output=0))
    cache.use(request(8, 9, more=1, output=0))
    assert cache.find(request(1, 2, 3)) == UNIT, "1 was used last, and 3 and 2 went for the place of 9"
    assert cache.find(request(7)) == UNIT
    assert cache.find(request(8, 9)) == 2 * UNIT


def test_answers_and_ends_of_prompts_take_space_too() -> None:
    cache = PrefixCache(CacheSize(2 * UNIT), UNIT)
    cache.use(request(1, more=0, output=1))
    cache.use(request(more=UNIT, output=UNIT))
    assert cache.find(request(1)) == 0
    assert cache.tokens <= 2 * UNIT


def test_accounts_never_share() -> None:
    cache = PrefixCache(CacheSize(None), UNIT)
    cache.use(request(1, 2, account=1))
    assert cache.find(request(1, 2, account=2)) == 0
    assert cache.find(request(1, 2, account=1)) == 2 * UNIT


def test_no_cache_finds_nothing() -> None:
    cache = PrefixCache(CacheSize(0), UNIT)
    cache.use(request(1))
    assert cache.find(request(1)) == 0
    assert cache.tokens == 0


def test_a_trace_without_prefixes_is_never_cached() -> None:
    cache = PrefixCache(CacheSize(None), 0)
    assert cache.use(TraceRequest(0.0, 5000, 10)) == 0
    assert cache.use(TraceRequest(0.0, 5000, 10)) == 0


def test_blocks_that_the_engines_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole number of blocks of 16"):
        PrefixCache(CacheSize(None), 500)
    with pytest.raises(ValueError, match="no fewer than 0"):
        CacheSize(-1)


def test_a_node_bills_no_more_as_cached_than_its_metering_remembers() -> None:
    assert Nodes(cache_tokens=MOST_PAID_TOKENS * 8).cache() == CacheSize(MOST_PAID_TOKENS)
    assert Nodes(cache_tokens=1000).cache() == CacheSize(1000)
    assert Nodes(cache_tokens=None).cache() == CacheSize(None)


class EngineCache:
    """The engine's own pool, which serves one request after another as its scheduler does."""

    def __init__(self, n_blocks: int) -> None:
        self.pool = BlockPool(n_blocks, ENGINE_BLOCK_TOKENS)

    def use(self, salt: str, prompt: list[int], output: list[int]) -> int:
        tokens = prompt + output[: max(0, len(output) - 1)]
        keys, key = [], root_key(salt)
        for end in range(ENGINE_BLOCK_TOKENS, len(tokens) + 1, ENGINE_BLOCK_TOKENS):
            key = next_key(key, tokens[end - ENGINE_BLOCK_TOKENS : end])
            keys.append(key)
        found = self.pool.find(keys[: (len(prompt) - 1) // ENGINE_BLOCK_TOKENS])
        for block in found:
            self.pool.share(block)
        blocks = [*found]
        blocks += [self.pool.allocate() for _ in range(self.pool.blocks_for(len(tokens)) - len(found))]
        for block, its_key in zip(blocks, keys, strict=False):
            self.pool.register(block, its_key)
        self.pool.release_all(blocks)
        return len(found) * ENGINE_BLOCK_TOKENS


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[int, tuple[int, ...], int, int]]:
    """Requests of two accounts: (account, blocks of its prompt, more tokens of the prompt, tokens of the answer)."""
    paths = st.lists(st.integers(0, 2), max_size=4).map(tuple)
    one = st.tuples(st.integers(0, 1), paths, st.integers(1, ENGINE_BLOCK_TOKENS - 1), st.integers(0, 40))
    return draw(st.lists(one, min_size=1, max_size=40))


@given(conversations(), st.integers(8, 30))
def test_the_model_finds_what_the_engines_pool_finds(
    requests: list[tuple[int, tuple[int, ...], int, int]], n_blocks: int
) -> None:
    """With the trace's block as small as the engine's, one request after another, the figures are equal."""
    engine = EngineCache(n_blocks)
    cache = PrefixCache(CacheSize(n_blocks * ENGINE_BLOCK_TOKENS), ENGINE_BLOCK_TOKENS)
    numbers: dict[tuple[int, ...], int] = {}
    unique = 1000
    for account, path, more, n_output in requests:
        prefix = [token for step in path for token in [step] * ENGINE_BLOCK_TOKENS]
        prompt = prefix + list(range(unique, unique + more))
        output = list(range(unique + more, unique + more + n_output))
        unique += 100
        blocks = tuple(numbers.setdefault(path[: end + 1], len(numbers)) for end in range(len(path)))
        seen = cache.use(TraceRequest(0.0, len(prompt), n_output, blocks, account))
        assert seen == engine.use(str(account), prompt, output)
        assert cache.tokens <= n_blocks * ENGINE_BLOCK_TOKENS
