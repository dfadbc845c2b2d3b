"""The noise of draws is Gumbel's, independent over tokens and indices, and a function of its key alone."""

from __future__ import annotations

import math

import numpy as np

from model.sampling.noise import all_tokens, derived_seed, gumbel, key
from tests.model.sampling.distributions import chi_square_deviations

EULER = 0.5772156649


def test_noise_has_gumbels_distribution() -> None:
    noise_V = gumbel(key(1, 2), all_tokens(200_000))
    assert noise_V.dtype == np.float32
    cells = (np.exp(-np.exp(-noise_V.astype(np.float64))) * 50).astype(
        int
    )  # the distribution function is uniform
    assert chi_square_deviations(cells, [1] * 50) < 5
    assert abs(float(noise_V.mean()) - EULER) < 0.01
    assert abs(float(noise_V.var()) - math.pi**2 / 6) < 0.03


def test_the_upper_tail_that_decides_draws_is_exact() -> None:
    draws = np.concatenate([gumbel(key(3, index), all_tokens(100_000)) for index in range(20)])
    for beyond in (6, 8, 10):
        expected = 2_000_000 * -math.expm1(-math.exp(-beyond))
        assert abs((draws > beyond).sum() - expected) < 5 * math.sqrt(expected)


def test_a_tokens_noise_does_not_depend_on_the_tokens_beside_it() -> None:
    ids = np.array([7, 4321, 0], np.uint32)
    assert np.array_equal(gumbel(key(1, 0), ids), gumbel(key(1, 0), all_tokens(5000))[ids])


def test_noise_of_other_indices_seeds_and_tokens_is_uncorrelated() -> None:
    base = gumbel(key(1, 0), all_tokens(50_000))
    others = [gumbel(key(*other), all_tokens(50_000)) for other in ((1, 1), (2, 0), (0, 1), (1, 2**40))]
    others.append(np.roll(base, 1))
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / math.sqrt(50_000)


def test_draws_do_not_share_their_variates_in_another_order() -> None:
    n = 2**16  # a power of two: keys that only permute ids would give the same set
    sets = [np.sort(gumbel(index << 32 | index, all_tokens(n))) for index in range(8)]
    assert len({float(values[-1]) for values in sets}) == 8


def test_consecutive_indices_of_one_seed_draw_independently() -> None:
    """Pairs of consecutive draws among four even tokens fill all sixteen cells evenly."""
    ids = all_tokens(4)
    drawn = [int(gumbel(key(11, index), ids).argmax()) for index in range(20_000)]
    pairs = [4 * first + second for first, second in zip(drawn[::2], drawn[1::2], strict=True)]
    assert chi_square_deviations(pairs, [1] * 16) < 5


def id_of_hash(value: int, key: int) -> int:
    """The id whose bits under `key` are `value`: each step of `triple32` undone, the last one first."""

    def unshifted(x: int, shift: int) -> int:
        found = x
        for _ in range(32 // shift):
            found = x ^ found >> shift
        return found

    x = unshifted(value, 14)
    x = unshifted(x * pow(0x31848BAB, -1, 2**32) % 2**32, 15)
    x = (x * pow(0xAC4C1B51, -1, 2**32) - (key >> 32)) % 2**32
    x = unshifted(x, 11) * pow(0xED5AD4BB, -1, 2**32) % 2**32
    return unshifted(x, 17) ^ key & 2**32 - 1


def test_noise_is_finite_and_exact_at_its_ends() -> None:
    """Among 2^32 bits the first and the last few hundred, which round to 1, come up too seldom to be met by chance."""
    bits = [0, 1, 1000, 2**31, 2**32 - 1000, 2**32 - 100, 2**32 - 1]
    some_key = key(3, 4)
    noise = gumbel(some_key, np.array([id_of_hash(value, some_key) for value in bits], np.uint32))
    least_left = 2.0**-24  # fp32 tells no less apart from 1
    expected = [-math.log(-math.log(max(1 - (value + 0.5) / 2**32, least_left))) for value in bits[2:]]
    assert np.allclose(noise[2:], expected, rtol=1e-3)
    assert np.allclose(noise[:2], [33 * math.log(2), 33 * math.log(2) - math.log(3)], rtol=1e-6)
    assert (noise[1:] <= noise[:-1]).all() and noise[-1] > -2.9 and noise[0] < 23


def test_derived_seeds_are_valid_and_differ() -> None:
    seeds = {derived_seed(5, i) for i in range(1000)} | {derived_seed(6, i) for i in range(1000)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
