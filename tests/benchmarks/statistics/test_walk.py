"""Boundaries of the sign walk are exact: checked by enumerating all sequences of short walks."""

import itertools
from fractions import Fraction

import pytest

from benchmarks.statistics.walk import reached_at, spending_boundaries

LOOKS = {3: Fraction(1, 6), 6: Fraction(1, 10), 9: Fraction(1, 20)}


def enumerated(needed: dict[int, int], length: int) -> dict[int, Fraction]:
    """The same probabilities by trying every sequence of signs."""
    counts = dict.fromkeys(needed, 0)
    for signs in itertools.product((0, 1), repeat=length):
        for look, count in needed.items():
            if sum(signs[:look]) >= count:
                counts[look] += 1
                break
    return {look: Fraction(count, 2**length) for look, count in counts.items()}


def test_probabilities_are_those_of_all_sequences() -> None:
    needed = spending_boundaries(LOOKS)
    assert reached_at(needed) == enumerated(needed, 9)


def test_no_look_spends_more_than_its_share_and_one_less_would() -> None:
    needed = spending_boundaries(LOOKS)
    spent = reached_at(needed)
    for look, share in LOOKS.items():
        assert spent[look] <= share
        lower = {each: count - (each == look) for each, count in needed.items()}
        assert reached_at(lower)[look] > share


def test_a_share_that_is_too_small_puts_the_boundary_out_of_reach() -> None:
    assert spending_boundaries({3: Fraction(1, 9)}) == {3: 4}
    assert reached_at({3: 4}) == {3: 0}


def test_more_pairs_above_reach_the_boundary_more_often() -> None:
    needed = spending_boundaries(LOOKS)
    shares = [sum(reached_at(needed, Fraction(tenths, 10)).values()) for tenths in range(11)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert float(shares[5]) == pytest.approx(float(sum(enumerated(needed, 9).values())))
