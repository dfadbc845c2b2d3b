"""Shares, prices and a day's pay: every rounding is to the users' gain, and no cap is passed."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sharing.royalties import (
    DAY_CAP_PPM,
    PAYER_CAP_PPM,
    Claim,
    Law,
    counted,
    credits_of,
    day_pay,
    royalty_ppm,
    shared_price,
)
from benchmarks.sharing.savings import MILLION, remaining_ppm

PPM = st.integers(0, MILLION)
CLAIMS = st.lists(
    st.builds(
        Claim,
        term=st.sampled_from(["a", "b", "c"]),
        person=st.just(9),
        payer=st.integers(1, 4),
        saving_ppm=PPM,
        share_ppm=PPM,
        before_microcredits=st.integers(0, 10**9),
    ),
    max_size=12,
)
PAID = st.dictionaries(st.integers(1, 4), st.integers(0, 10**9), max_size=4)


def test_a_saving_is_split_by_logs_and_the_rest_belongs_to_no_one() -> None:
    assert credits_of(100, [200_000, 100_000]) == [66, 33]


def test_a_gain_is_credited_at_most_what_it_was_before() -> None:
    assert credits_of(100, [1, 1], [20, None]) == [20, 50]


@given(PPM, st.lists(st.integers(1, MILLION), min_size=1, max_size=6))
def test_credits_are_never_more_than_the_saving(saving: int, logs: list[int]) -> None:
    assert sum(credits_of(saving, logs)) <= saving


@given(PPM, st.integers(1, MILLION), st.integers(1, 5), st.integers(1, MILLION))
def test_a_gain_in_several_names_is_credited_no_more(saving: int, part: int, names: int, other: int) -> None:
    whole = credits_of(saving, [names * part, other])
    parts = credits_of(saving, [part] * names + [other])
    assert sum(parts[:names]) <= whole[0] and parts[-1] == whole[1]


@pytest.mark.parametrize(("saving", "logs"), [(-1, [1]), (1, [0]), (1, [-5])])
def test_no_negative_saving_and_no_log_without_a_gain(saving: int, logs: list[int]) -> None:
    with pytest.raises(ValueError, match="not negative"):
        credits_of(saving, logs)


@given(st.integers(0, 10**12), st.integers(0, 3_000_000), PPM)
def test_the_price_is_below_the_exact_one_by_less_than_a_unit_and_two_millionths(
    reference: int, log: int, share: int
) -> None:
    saving = MILLION - remaining_ppm(log)
    exact = reference * (Fraction(remaining_ppm(log)) + Fraction(saving * share, MILLION)) / MILLION
    price = shared_price(reference, remaining_ppm(log), [royalty_ppm(saving, share)])
    assert 0 <= price <= exact < price + 1 + Fraction(reference, MILLION)
    assert shared_price(reference, remaining_ppm(log)) <= price <= reference


def test_the_users_part_at_once_and_the_rest_when_the_royalty_ends() -> None:
    saving = 200_000
    assert shared_price(1_000_000, MILLION - saving, [royalty_ppm(saving, 300_000)]) == 860_000
    assert shared_price(1_000_000, MILLION - saving) == 800_000


@given(CLAIMS, PAID)
def test_no_cap_is_passed(claims: list[Claim], paid: dict[int, int]) -> None:
    pay = day_pay(claims, paid)
    assert sum(pay.values()) * MILLION <= sum(paid.values()) * DAY_CAP_PPM
    for term, amount in pay.items():
        assert 0 < amount <= sum(claim.due for claim in claims if claim.term == term)
    for payer in {claim.payer for claim in claims}:
        alone = day_pay([claim for claim in claims if claim.payer == payer], paid)
        assert sum(alone.values()) * MILLION <= paid.get(payer, 0) * PAYER_CAP_PPM


@given(CLAIMS, PAID, st.integers(2, 5))
def test_a_term_in_several_names_earns_no_more(claims: list[Claim], paid: dict[int, int], names: int) -> None:
    split = [
        Claim(
            f"{claim.term}{name}",
            9,
            claim.payer,
            claim.saving_ppm // names,
            claim.share_ppm,
            claim.before_microcredits,
        )
        for claim in claims
        for name in range(names)
    ]
    rounding = len(claims) + 4
    assert sum(day_pay(split, paid).values()) <= sum(day_pay(claims, paid).values()) + rounding


def test_the_cap_of_all_royalties_scales_each_alike() -> None:
    claims = [Claim("a", 9, 1, MILLION, MILLION, 400), Claim("b", 9, 1, MILLION, MILLION, 200)]
    assert day_pay(claims, {1: 1_000}, payer_cap_ppm=MILLION) == {"a": 200, "b": 100}


def test_an_account_that_paid_nothing_that_counts_earns_no_one_anything() -> None:
    assert day_pay([Claim("a", 9, 1, MILLION, MILLION, 10**9)], {2: 10**9}) == {}


@pytest.mark.parametrize(("share", "days"), [(-1, 90), (MILLION + 1, 90), (1, -1), (1, 3651), (True, 90)])
def test_a_law_out_of_range_is_refused(share: int, days: int) -> None:
    with pytest.raises(ValueError, match="whole number"):
        Law(share, days)


def test_the_default_law() -> None:
    assert Law() == Law(300_000, 90)


def test_own_tokens_owe_nothing() -> None:
    assert day_pay([Claim("a", 1, 1, MILLION, MILLION, 10**9)], {1: 10**9}) == {}


def test_only_awards_and_purchases_count() -> None:
    paid = {"starter": 1, "grant": 2, "royalty": 4, "award": 8, "purchase": 16}
    assert counted(paid) == 24
