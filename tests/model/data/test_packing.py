"""Packing, bucketing and orders as plans over numbers, against slow plain versions of the same methods."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.batches.batching import bucket, cells
from model.data.batches.order import keyed_order
from model.data.batches.packing import cut, pack, padding_share
from model.data.batches.padding import padding_shares

pytestmark = pytest.mark.slow

CAPACITY = 24
lengths_lists = st.lists(st.integers(1, CAPACITY), max_size=80)


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """The least room left, found by looking at every sequence: sorted fills of the sequences."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(capacity - room for room in rooms)


@settings(deadline=None)
@given(lengths_lists)
def test_packing_is_best_fit_decreasing(lengths: list[int]) -> None:
    sequences = pack(lengths, CAPACITY)
    assert sorted(index for sequence in sequences for index in sequence) == list(range(len(lengths)))
    fills = sorted(sum(lengths[index] for index in sequence) for sequence in sequences)
    assert fills == best_fit_decreasing(lengths, CAPACITY)


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(1, CAPACITY - 1), max_size=5), min_size=1, max_size=30))
def test_packing_stays_within_eleven_ninths_of_the_least(cuts: list[set[int]]) -> None:
    lengths: list[int] = []  # of full sequences, cut at these places: so many are the least possible
    for places in cuts:
        bounds = [0, *sorted(places), CAPACITY]
        lengths += [end - start for start, end in itertools.pairwise(bounds)]
    assert len(cuts) <= len(pack(lengths, CAPACITY)) <= 11 / 9 * len(cuts) + 4


def test_packing_fills_sequences_exactly_where_that_is_possible() -> None:
    lengths = [7, 5, 4] * 50 + [9, 3, 3, 1] * 50
    sequences = pack(lengths, 16)
    assert len(sequences) == 100
    assert padding_share(lengths, 16 * len(sequences)) == 0


def test_packing_takes_extreme_capacities() -> None:
    assert pack([1, 1, 1], 1) == [[0], [1], [2]]
    assert len(pack([1] * 1000, 1 << 17)) == 1
    assert pack([], 8) == []


@pytest.mark.parametrize("lengths", [[0, 3], [3, 9], [-1]])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="between 1 and the sequence length 8"):
        pack(lengths, 8)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 17))
def test_only_documents_longer_than_a_sequence_are_cut(length: int, capacity: int) -> None:
    pieces = cut(length, capacity)
    assert sum(pieces) == length and all(1 <= piece <= capacity for piece in pieces)
    assert len(pieces) == -(-length // capacity)


@settings(deadline=None)
@given(lengths_lists, st.integers(CAPACITY, 200), st.sampled_from([1, 4, 8]))
def test_buckets_keep_the_budget_and_hold_everything_once(
    lengths: list[int], budget: int, multiple: int
) -> None:
    batches = bucket(lengths, budget, multiple=multiple)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    previous = 0
    for batch in batches:
        widest = max(lengths[index] for index in batch)
        width = -(-widest // multiple) * multiple
        assert width * len(batch) <= budget
        assert min(lengths[index] for index in batch) >= previous
        previous = widest
    heights = [len(batch) for batch in batches]
    for batch, following in itertools.pairwise(batches):  # no batch closes early
        width = -(-lengths[following[0]] // multiple) * multiple
        assert (len(batch) + 1) * width > budget
    assert sum(heights) == len(lengths)


@pytest.mark.parametrize("lengths", [[0], [17]])
def test_lengths_beyond_the_budget_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="the budget of 16 tokens"):
        bucket(lengths, 16)


def test_a_width_that_is_rounded_beyond_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        bucket([17], 20, multiple=8)


def test_cells_count_what_padded_batches_compute() -> None:
    assert cells([3, 5, 2], [[0, 1], [2]]) == 2 * 5 + 2
    assert cells([3, 5, 2], [[0, 1], [2]], multiple=4) == 2 * 8 + 4


@pytest.mark.parametrize("sequence_length", [0, -5])
def test_padding_needs_a_sequence_length(sequence_length: int) -> None:
    with pytest.raises(ValueError, match=f"sequence length must be at least 1, not {sequence_length}"):
        padding_shares([3, 4], sequence_length, 8)


def test_padding_shares_are_those_of_counted_cells() -> None:
    lengths = [4, 4, 2, 2, 1, 3]
    shares = padding_shares(lengths, 4, 8)
    assert padding_shares([3, 3], 4, 4).padded == 0  # a batch may be one sequence
    assert shares.packed == pytest.approx(0)
    assert shares.bucketed == pytest.approx(1 - 16 / cells(lengths, bucket(lengths, 8)))
    order = keyed_order(6, ("padding", 0)).tolist()
    pairs = [order[start : start + 2] for start in (0, 2, 4)]
    assert shares.padded == pytest.approx(1 - 16 / sum(2 * max(lengths[i] for i in pair) for pair in pairs))


def test_packing_wastes_least_on_mixed_lengths() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 150, 3000)
    shares = padding_shares(lengths, 512, 8192)
    assert shares.packed < 0.02 < shares.padded
    assert shares.bucketed < shares.padded / 4
    with pytest.raises(ValueError, match="at least the sequence length"):
        padding_shares(lengths, 512, 256)
    with pytest.raises(ValueError, match="at least one token"):
        padding_shares([0, 3], 4, 8)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers())
def test_a_keyed_order_is_a_permutation_that_its_key_decides(n: int, seed: int) -> None:
    order = keyed_order(n, ("a", seed))
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, keyed_order(n, ("a", seed)))
    if n > 20:
        assert not np.array_equal(order, keyed_order(n, ("b", seed)))


def test_keyed_orders_never_change() -> None:
    """A stored state would go on differently: these numbers come from the definition, worked out in plain integers."""
    for n in (0, 1, 8, 1000):
        assert keyed_order(n, ("fixed", 1)).tolist() == plain_order(n, ("fixed", 1))


def plain_order(n: int, key: tuple[str | int, ...]) -> list[int]:
    word = (1 << 64) - 1
    start = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")

    def mix(x: int) -> int:
        x = (x + start) * 0x9E3779B97F4A7C15 & word
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & word
        x = (x ^ x >> 27) * 0x94D049BB133111EB & word
        return x ^ x >> 31

    return sorted(range(n), key=mix)


def test_keyed_orders_look_shuffled() -> None:
    order = keyed_order(10_000, ("look", 0))
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.03  # three standard errors
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03
