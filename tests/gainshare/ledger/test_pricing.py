"""Bills: one floor per line, and an upper bound that no bill exceeds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.ledger.pricing import Line, Usage, affordable_output, bill, upper_bound
from gainshare.ledger.pricing import PriceTable as Price

PRICE = Price(cached_input=100_000, fresh_input=1_000_000, output=3_000_000)
tokens = st.integers(0, 10**7)
unit = st.integers(0, 10**13)
prices = st.builds(Price, unit, unit, unit)


def test_each_line_is_floored_once() -> None:
    made = bill(Usage(cached_tokens=15, fresh_tokens=7, output_tokens=3), PRICE)
    assert made.lines == (
        Line("cached_input", 15, 100_000, 1),  # 1.5
        Line("fresh_input", 7, 1_000_000, 7),
        Line("output", 3, 3_000_000, 9),
    )
    assert made.total == 17


def test_fractions_of_two_lines_never_add_up_to_a_micro_credit() -> None:
    price = Price(cached_input=600_000, fresh_input=600_000, output=0)
    assert bill(Usage(1, 1, 0), price).total == 0


@pytest.mark.parametrize("counts", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0.5, 0, 0), (True, 0, 0)])
def test_usage_is_whole_and_not_negative(counts: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        Usage(*counts)


@given(cached=tokens, fresh=tokens, output=tokens, price=prices)
def test_no_bill_exceeds_its_upper_bound(cached: int, fresh: int, output: Any, price: Price) -> None:
    total = bill(Usage(cached, fresh, output), price).total
    assert total <= upper_bound(cached + fresh, output, price)


@given(cached=tokens, fresh=tokens, output=tokens, price=prices)
def test_a_bill_is_less_than_three_micro_credits_below_the_exact_amount(
    cached: int, fresh: int, output: Any, price: Price
) -> None:
    exact_millionths = cached * price.cached_input + fresh * price.fresh_input + output * price.output
    total = bill(Usage(cached, fresh, output), price).total
    assert 0 <= exact_millionths - total * 1_000_000 < 3_000_000


@given(available=st.integers(0, 10**15), prompt=tokens, price=prices)
def test_affordable_output_is_the_most_that_fits(available: int, prompt: int, price: Price) -> None:
    most = affordable_output(available, prompt, price)
    if most is None:
        assert price.output == 0
        assert upper_bound(prompt, 10**9, price) <= available
    elif most < 0:
        assert upper_bound(prompt, 0, price) > available
    else:
        assert upper_bound(prompt, most, price) <= available < upper_bound(prompt, most + 1, price)
