"""Windows, long context and memory: no bill exceeds its hold, neutral terms change nothing, and a fall is never dearer."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gainshare.ledger.pricing import (
    MILLION,
    Arrival,
    Line,
    PriceTable,
    Usage,
    affordable_output,
    bill,
    check_terms,
    hour_factors,
    memory_cost,
    rises,
    upper_bound,
)
from tests.gainshare.ledger.price_terms import (
    bill_of_three_lines,
    hours,
    prices,
    tokens,
    unit,
    usages,
    windows,
)

PLAIN = PriceTable(cached_input=100_000, fresh_input=1_000_000, output=4_000_000)
GB_S = 10**12


@given(usage=usages(), price=st.builds(PriceTable, unit, unit, unit))
def test_neutral_terms_make_the_bill_of_three_lines(usage: Usage, price: PriceTable) -> None:
    made = bill(usage, price)
    assert made.lines == bill_of_three_lines(usage, price)
    assert made.total == sum(line.amount for line in made.lines)
    assert all(set(line.as_json()) == {"item", "quantity", "unit_price", "amount"} for line in made.lines)


@given(prompt=tokens, output=tokens, price=st.builds(PriceTable, unit, unit, unit))
def test_neutral_terms_hold_what_they_held(prompt: int, output: int, price: PriceTable) -> None:
    held = prompt * max(price.cached_input, price.fresh_input) // MILLION + output * price.output // MILLION
    assert upper_bound(prompt, output, price) == held


@given(usage=usages(), price=prices)
def test_no_bill_exceeds_its_hold(usage: Usage, price: PriceTable) -> None:
    assert bill(usage, price).total <= upper_bound(usage.prompt_tokens, usage.output_tokens, price)


@given(usage=usages(), price=prices, more=st.integers(0, 10**6))
def test_a_shorter_answer_fits_the_same_hold(usage: Usage, price: PriceTable, more: int) -> None:
    held = upper_bound(usage.prompt_tokens, usage.output_tokens + more, price)
    assert bill(usage, price).total <= held


@given(usage=usages(), price=prices, data=st.data())
def test_more_usage_never_costs_less(usage: Usage, price: PriceTable, data: st.DataObject) -> None:
    """More output at the end, and more memory. A token that is fresh instead of cached depends on the two prices."""
    hour = data.draw(hours)
    more = data.draw(st.integers(0, 1000))
    longer = replace(
        usage,
        output_tokens=usage.output_tokens + more,
        arrivals=(*usage.arrivals, Arrival(hour, 0, more)),
        kv_byte_ms=usage.kv_byte_ms + data.draw(st.integers(0, 10**15)),
    )
    assert bill(longer, price).total >= bill(usage, price).total


@given(usage=usages(), price=prices)
def test_the_order_of_answers_does_not_matter(usage: Usage, price: PriceTable) -> None:
    """Arrivals of different answers may be written down in any order; those of one answer have theirs."""
    by_answer = sorted(usage.arrivals, key=lambda each: each.answer)
    assert bill(replace(usage, arrivals=tuple(by_answer)), price) == bill(usage, price)


@given(usage=usages(), price=prices)
def test_how_arrivals_are_cut_does_not_matter(usage: Usage, price: PriceTable) -> None:
    halves = tuple(
        part
        for hour, answer, n in usage.arrivals
        for part in (Arrival(hour, answer, n // 2), Arrival(hour, answer, n - n // 2))
    )
    assert bill(replace(usage, arrivals=halves), price) == bill(usage, price)


@given(price=prices, data=st.data())
def test_the_order_of_windows_does_not_matter(price: PriceTable, data: st.DataObject) -> None:
    usage = data.draw(usages())
    for order in list(permutations(price.off_peak_windows))[:6]:
        assert bill(usage, replace(price, off_peak_windows=order)) == bill(usage, price)


@given(usage=usages(), price=prices)
def test_every_line_is_less_than_a_micro_credit_below_the_exact_amount(
    usage: Usage, price: PriceTable
) -> None:
    for line in bill(usage, price).lines:
        if line.item != "memory":
            parts = line.parts or ((MILLION, line.quantity),)
            exact = sum(factor * count for factor, count in parts) * line.unit_price
            assert 0 <= exact - line.amount * 10**12 < 10**12
            assert sum(count for _, count in parts) == line.quantity


@given(usage=usages(), price=prices)
def test_memory_is_at_most_its_share(usage: Usage, price: PriceTable) -> None:
    lines = bill(usage, price).lines
    other = sum(line.amount for line in lines if line.item != "memory")
    memory = sum(line.amount for line in lines if line.item == "memory")
    assert memory * MILLION <= other * price.memory_share_ppm
    assert memory <= memory_cost(usage.kv_byte_ms, price.memory_tiers) // GB_S


@given(available=st.integers(0, 10**15), prompt=tokens, price=prices)
def test_affordable_output_is_the_most_that_fits(available: int, prompt: int, price: PriceTable) -> None:
    most = affordable_output(available, prompt, price)
    if most is None:
        assert upper_bound(prompt, 10**12, price) <= available
    elif most < 0:
        assert upper_bound(prompt, 0, price) > available
    else:
        assert upper_bound(prompt, most, price) <= available < upper_bound(prompt, most + 1, price)


# -- rises ------------------------------------------------------------------------------------------

small = st.integers(0, 3)
small_prices = st.builds(
    PriceTable,
    cached_input=small,
    fresh_input=small,
    output=small,
    long_above=st.integers(0, 5),
    long_cached_input=st.integers(0, 1),
    long_fresh_input=st.integers(0, 1),
    long_output=st.integers(0, 1),
    off_peak_windows=windows(),
    memory_tiers=st.lists(small, max_size=2).map(
        lambda each: [[at * 3, price] for at, price in enumerate(each)]
    ),
    memory_share_ppm=st.sampled_from([0, 500_000, MILLION]),
)
FACTORS = ("cached_input", "fresh_input", "output", "long_cached_input", "long_fresh_input", "long_output")


def scaled(price: PriceTable) -> PriceTable:
    """The same prices around one micro-credit a token, where floors show."""
    fields = {name: getattr(price, name) * 400_000 for name in FACTORS}
    memory = [[above * GB_S, each * 3] for above, each in price.memory_tiers]
    return replace(price, **fields, memory_tiers=memory)


@given(new=small_prices, old=small_prices, data=st.data())
def test_what_is_no_rise_makes_no_bill_dearer(new: PriceTable, old: PriceTable, data: st.DataObject) -> None:
    new, old = scaled(new), scaled(old)
    merged = data.draw(st.sets(st.sampled_from(sorted(vars(old)))))
    new = replace(new, **{name: getattr(old, name) for name in merged})
    count = st.integers(0, 9)
    came = tuple(data.draw(st.lists(st.builds(Arrival, hours, st.just(0), count), max_size=4)))
    usage = Usage(
        data.draw(count),
        data.draw(count),
        sum(each.tokens for each in came) + data.draw(count),
        data.draw(st.none() | hours),
        came,
        data.draw(st.integers(0, 12)) * GB_S,
    )
    if not rises(new, old):
        assert bill(usage, new).total <= bill(usage, old).total


@given(price=prices)
def test_the_same_prices_are_no_rise(price: PriceTable) -> None:
    assert rises(price, price) == ()


DISCOUNTED = replace(PLAIN, off_peak_windows=[[22, 6, 500_000]])
LONG = replace(PLAIN, long_above=32_000, long_fresh_input=500_000)
MEMORY = replace(PLAIN, memory_tiers=[[GB_S, 40], [10 * GB_S, 20]], memory_share_ppm=200_000)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (PLAIN, replace(PLAIN, output=4_000_001), ("output",)),
        (PLAIN, replace(PLAIN, output=0, cached_input=100_001), ("cached_input",)),
        (PLAIN, LONG, ("long_fresh_input",)),
        (LONG, replace(LONG, long_above=31_999), ("long_above",)),
        (LONG, replace(LONG, long_above=32_001), ()),
        (LONG, PLAIN, ()),
        (PLAIN, DISCOUNTED, ()),
        (DISCOUNTED, PLAIN, ("off_peak_windows",)),
        (DISCOUNTED, replace(PLAIN, off_peak_windows=[[23, 7, 500_000]]), ("off_peak_windows",)),
        (DISCOUNTED, replace(PLAIN, off_peak_windows=[[0, 6, 1], [22, 24, 500_000]]), ()),
        (PLAIN, MEMORY, ("memory_share_ppm", "memory_tiers")),
        (MEMORY, PLAIN, ()),
        (MEMORY, replace(MEMORY, memory_share_ppm=200_001), ("memory_share_ppm",)),
        (MEMORY, replace(MEMORY, memory_tiers=[[GB_S, 40]]), ("memory_tiers",)),
        (MEMORY, replace(MEMORY, memory_tiers=[[GB_S - 1, 40], [10 * GB_S, 20]]), ("memory_tiers",)),
        (MEMORY, replace(MEMORY, memory_tiers=[[5 * GB_S, 40], [10 * GB_S, 20]]), ()),
        (PLAIN, replace(PLAIN, memory_share_ppm=MILLION), ()),  # a share of nothing
    ],
)
def test_what_can_make_a_bill_dearer_is_named(
    old: PriceTable, new: PriceTable, named: tuple[str, ...]
) -> None:
    assert set(rises(new, old)) == set(named)


# -- examples ---------------------------------------------------------------------------------------


def test_an_answer_over_midnight_is_billed_by_the_hour_of_each_token() -> None:
    price = replace(PLAIN, off_peak_windows=[[0, 6, 250_000]])
    usage = Usage(0, 8, 10, 23, (Arrival(23, 0, 4), Arrival(0, 0, 6)))
    lines = {line.item: line for line in bill(usage, price).lines}
    assert lines["fresh_input"] == Line("fresh_input", 8, 1_000_000, 8)  # at 23 o'clock
    assert lines["output"] == Line("output", 10, 4_000_000, 16 + 6, ((250_000, 6), (MILLION, 4)))


def test_only_tokens_above_the_threshold_bear_the_surcharge() -> None:
    price = replace(
        PLAIN, long_above=10, long_cached_input=1, long_fresh_input=2_000_000, long_output=1_000_000
    )
    lines = {line.item: line.quantity for line in bill(Usage(4, 8, 3), price).lines}
    assert lines == {
        "cached_input": 4, "fresh_input": 8, "output": 3, "long_fresh_input": 2, "long_output": 3,
    }  # fmt: skip
    assert len(bill(Usage(4, 6, 0), price).lines) == 3


def test_each_answer_has_its_own_length() -> None:
    """Two answers of 6 tokens after a prompt of 5 end at 11 each, not at 17."""
    price = replace(PLAIN, long_above=10, long_output=1_000_000)
    usage = Usage(0, 5, 12, 1, (Arrival(1, 0, 6), Arrival(1, 1, 6)))
    assert bill(usage, price).lines[-1] == Line("long_output", 2, 1_000_000, 2)


def test_memory_is_billed_by_tiers_up_to_its_share() -> None:
    usage = Usage(0, 10_000, 10_000, kv_byte_ms=14 * GB_S)
    (*_, memory) = bill(usage, MEMORY).lines
    assert memory == Line("memory", 14 * GB_S, 20, 9 * 40 + 4 * 20, ((40, 9 * GB_S), (20, 4 * GB_S)))
    (*_, capped) = bill(replace(usage, kv_byte_ms=10**18), MEMORY).lines
    assert capped.amount == (10_000 + 40_000) // 5
    assert len(bill(replace(usage, kv_byte_ms=GB_S), MEMORY).lines) == 3  # the first GB-second is free


@example(first=22, end=6)
@example(first=0, end=24)
@given(first=hours, end=st.integers(0, 24))
def test_a_window_covers_its_hours(first: int, end: int) -> None:
    if first == end:
        return
    factors = hour_factors(replace(PLAIN, off_peak_windows=[[first, end, 7]]))
    inside = [first <= h < end if end > first else h >= first or h < end for h in range(24)]
    assert [factor == 7 for factor in factors] == inside


@pytest.mark.parametrize(
    "terms",
    [
        {"output": -1},
        {"output": 1.5},
        {"fresh_input": True},
        {"long_output": 10**15 + 1},
        {"long_above": -1},
        {"memory_share_ppm": 1_000_001},
        {"memory_share_ppm": -1},
        {"off_peak_windows": [[24, 6, 0]]},
        {"off_peak_windows": [[3, 3, 0]]},
        {"off_peak_windows": [[3, 25, 0]]},
        {"off_peak_windows": [[3, 5, 1_000_001]]},
        {"off_peak_windows": [[3, 5, -1]]},
        {"off_peak_windows": [[3, 5]]},
        {"off_peak_windows": [[22, 6, 1], [5, 8, 1]]},
        {"memory_tiers": [[0, -1]]},
        {"memory_tiers": [[5, 1], [5, 2]]},
        {"memory_tiers": [[5, 1, 2]]},
        {"memory_tiers": [[5, 1.5]]},
    ],
    ids=repr,
)
def test_terms_that_are_none_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"whole|window|tier|Memory|long_above|share"):
        check_terms(replace(PLAIN, **terms), most=10**15)


@given(price=prices)
def test_terms_of_every_kind_are_accepted(price: PriceTable) -> None:
    check_terms(price, most=10**18)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_hour": 24},
        {"prompt_hour": -1},
        {"arrivals": (Arrival(24, 0, 1),)},
        {"arrivals": (Arrival(0, 0, 5),)},
        {"arrivals": (Arrival(0, 0, -1),)},
        {"kv_byte_ms": -1},
        {"kv_byte_ms": 0.5},
    ],
    ids=repr,
)
def test_usage_of_no_hour_or_more_than_was_counted_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Usage(0, 1, 4, **fields)
