"""Shapes of a canary: each account weighs the same, the same seed draws the same, and too few accounts draw nothing."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.deployments.shapes import (
    DEFAULT,
    MAX_TOKENS,
    MIN_ACCOUNTS,
    draw_from,
)
from gainshare.capacity.lengths import Lengths

ROWS = st.lists(
    st.builds(Lengths, st.integers(1, 9), st.integers(0, 10**7), st.just(0), st.integers(0, 10**7)),
    max_size=60,
)


def test_an_account_that_asks_a_thousand_times_weighs_as_one() -> None:
    rows = [Lengths(account, 100 + account, 0, 10) for account in range(1, 10)]
    rows += [Lengths(10, 333, 0, 10)] * 10_000
    drawn = Counter(shape.prompt_tokens for seed in range(300) for shape in draw_from(rows, str(seed)).shapes)
    share = drawn[333] / drawn.total()
    assert 0.07 < share < 0.13


def test_too_few_accounts_choose_nothing() -> None:
    rows = [Lengths(account, 7, 0, 7) for account in range(MIN_ACCOUNTS - 1)] * 100
    drawn = draw_from(rows, "seed")
    assert drawn.shapes == DEFAULT and "shipped lengths: 4 accounts" in drawn.source
    assert draw_from([], "seed").shapes == DEFAULT


@given(ROWS, st.text(max_size=8))
def test_shapes_are_bounded_and_repeatable(rows: list[Lengths], seed: str) -> None:
    drawn = draw_from(rows, seed)
    assert drawn == draw_from(list(reversed(rows)), seed)
    for shape in drawn.shapes:
        assert 1 <= shape.prompt_tokens <= MAX_TOKENS and 1 <= shape.output_tokens <= MAX_TOKENS
    assert (drawn.shapes == DEFAULT) == (len({row.account for row in rows}) < MIN_ACCOUNTS)
