"""Awards of gains: exact, monotone, and never higher for a gain that is split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bounty.rewards import (
    PPM,
    award_microcredits,
    bug_shares,
    confirmed_award,
    required_reviewers,
    wanted_reservation,
)

rates = st.integers(1, 10**15)
bounds = st.integers(-(10**7), 10**7)
gains = st.integers(1, 10**7)


@given(rates, gains, gains)
def test_splitting_a_gain_never_pays_more(rate: int, first: int, second: int) -> None:
    def award(log_ppm: int) -> int:
        return award_microcredits(rate_microcredits_per_nat=rate, log_ppm=log_ppm)

    assert award(first) + award(second) <= award(first + second) <= award(first) + award(second) + 1


@given(rates, st.lists(gains, min_size=1, max_size=20))
def test_many_pieces_never_pay_more_than_the_whole(rate: int, pieces: list[int]) -> None:
    parts = sum(award_microcredits(rate_microcredits_per_nat=rate, log_ppm=piece) for piece in pieces)
    assert parts <= award_microcredits(rate_microcredits_per_nat=rate, log_ppm=sum(pieces))


@given(rates, bounds)
def test_an_award_is_the_floor_of_rate_times_gain(rate: int, bound: int) -> None:
    award = award_microcredits(rate_microcredits_per_nat=rate, log_ppm=bound)
    if bound <= 0:
        assert award == 0
    else:
        assert award * PPM <= rate * bound < (award + 1) * PPM


@given(rates, bounds, st.integers(0, 10**18))
def test_a_confirmed_award_stays_within_its_reservation(rate: int, bound: int, reserved: int) -> None:
    award = confirmed_award(
        rate_microcredits_per_nat=rate, bound_log_ppm=bound, reserved_microcredits=reserved
    )
    due = award_microcredits(rate_microcredits_per_nat=rate, log_ppm=bound)
    assert 0 <= award.microcredits <= reserved
    assert award.is_partial == (due > reserved)
    assert award.microcredits == (reserved if award.is_partial else due)


@given(rates, gains)
def test_the_reservation_covers_the_estimate_with_a_quarter_to_spare(rate: int, estimate: int) -> None:
    reserved = wanted_reservation(rate_microcredits_per_nat=rate, estimate_log_ppm=estimate)
    exact_numerator = rate * estimate * 5
    assert (reserved - 1) * PPM * 4 < exact_numerator <= reserved * PPM * 4
    assert reserved >= award_microcredits(rate_microcredits_per_nat=rate, log_ppm=estimate)


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="rate"):
        award_microcredits(rate_microcredits_per_nat=0, log_ppm=1)


def test_nothing_is_reserved_for_what_is_no_gain() -> None:
    with pytest.raises(ValueError, match="above zero"):
        wanted_reservation(rate_microcredits_per_nat=1, estimate_log_ppm=0)


@pytest.mark.parametrize(
    ("amount", "least", "above", "needed"),
    [(10, 1, None, 1), (10, 1, 10, 1), (11, 1, 10, 2), (11, 3, 10, 3), (1, 2, 10, 2)],
)
def test_large_awards_need_two_reviewers(amount: int, least: int, above: int | None, needed: int) -> None:
    assert (
        required_reviewers(amount_microcredits=amount, min_reviewers=least, two_above_microcredits=above)
        == needed
    )


@pytest.mark.parametrize(
    ("award", "ppm", "shares"),
    [
        (10_000_001, 300_000, (3_000_000, 7_000_001)),
        (1, 999_999, (0, 1)),
        (3, 500_000, (1, 2)),
        (10, 0, (0, 10)),
    ],
)
def test_a_bugs_shares_are_floored_to_the_reproduction_and_add_up(
    award: int, ppm: int, shares: tuple[int, int]
) -> None:
    found = bug_shares(award_microcredits=award, reproduction_ppm=ppm, is_reproduction_paid=True)
    assert (found.reproduction_microcredits, found.fix_microcredits) == shares
    unpaid = bug_shares(award_microcredits=award, reproduction_ppm=ppm, is_reproduction_paid=False)
    assert (unpaid.reproduction_microcredits, unpaid.fix_microcredits) == (0, award)


@pytest.mark.parametrize(("award", "ppm"), [(0, 1), (-1, 1), (1, 1_000_000), (1, -1)])
def test_shares_that_leave_nothing_for_the_fix_are_refused(award: int, ppm: int) -> None:
    with pytest.raises(ValueError, match="left for the fix"):
        bug_shares(award_microcredits=award, reproduction_ppm=ppm, is_reproduction_paid=True)
