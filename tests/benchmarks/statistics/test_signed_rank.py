"""Walsh averages: the estimate, and bounds whose error is exact."""

import random
from fractions import Fraction
from itertools import product

import pytest

from benchmarks.statistics.signed_rank import bound_rank, centre, walsh_sums


def test_the_centre_is_the_median_of_all_averages_of_two() -> None:
    assert walsh_sums([1, 4, 10]) == [2, 5, 8, 11, 14, 20]
    assert centre(walsh_sums([1, 4, 10])) == 4  # (8 + 11) / 4, rounded down
    assert centre(walsh_sums([-3])) == -3
    assert centre(walsh_sums([0, 0, 0, 0, 10**9])) == 0  # one outlier moves nothing
    with pytest.raises(ValueError, match="nothing"):
        centre([])


@pytest.mark.parametrize(
    ("count", "error"), [(6, Fraction(1, 50)), (8, Fraction(1, 50)), (12, Fraction(1, 2000))]
)
def test_the_bounds_error_is_that_of_all_signs(count: int, error: Fraction) -> None:
    """Every choice of signs is equally likely where the centre is zero: count in how many the bound is above it."""
    sizes = [3**place for place in range(count)]  # no two averages are equal
    rank = bound_rank(count, error)
    assert rank is not None

    def above(at: int) -> Fraction:
        wrong = sum(
            walsh_sums([size * sign for size, sign in zip(sizes, signs, strict=True)])[at - 1] > 0
            for signs in product((-1, 1), repeat=count)
        )
        return Fraction(wrong, 2**count)

    assert above(rank) <= error < above(rank + 1)


def test_few_values_have_no_bound() -> None:
    assert bound_rank(5, Fraction(1, 50)) is None
    assert bound_rank(6, Fraction(1, 50)) == 1
    assert bound_rank(10, Fraction(1, 2000)) is None


def test_the_bound_holds_for_heavy_tails() -> None:
    rng, wrong = random.Random(1), 0
    rank = bound_rank(20, Fraction(1, 50))
    assert rank is not None
    for _ in range(4_000):
        values = [round(1e6 * rng.gauss(0, 1) / max(1e-3, abs(rng.gauss(0, 1)))) for _ in range(20)]
        wrong += walsh_sums(values)[rank - 1] > 0
    assert 40 < wrong < 120  # 80 expected
