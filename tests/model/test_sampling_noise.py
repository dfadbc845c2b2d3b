"""The noise of draws is Gumbel's, independent over tokens and indices, and a function of its key alone."""

from __future__ import annotations

import math

import numpy as np

from model.sampling.noise import all_tokens, derived_seed, gumbel, key
from tests.model.distributions import chi_square_deviations

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


def test_noise_is_finite_at_its_ends() -> None:
    ids = np.arange(2**22, dtype=np.uint32)
    noise = gumbel(0, ids)
    assert np.isfinite(noise).all()
    assert noise.min() > -2.9 and noise.max() < 23


def test_derived_seeds_are_valid_and_differ() -> None:
    seeds = {derived_seed(5, i) for i in range(1000)} | {derived_seed(6, i) for i in range(1000)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
