"""What deployments save: nothing is paid twice, however it is cut, ordered, lost and deployed again."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.canary.order import DECODE, MEMORY, PREFILL
from benchmarks.sharing.savings import (
    MILLION,
    Placed,
    Saving,
    Served,
    best_tree,
    level,
    placed,
    remaining_ppm,
)

T0 = datetime(2026, 11, 1, tzinfo=UTC)
LOGS = st.integers(-400_000, 800_000)


def at(day: int) -> datetime:
    return T0 + timedelta(days=day)


def clocked(day: int, tree: str, decode: int, **more: int) -> Served:
    return Served(str(day), tree, at(day), {DECODE: decode, **more})


def saved(history: list[Placed], line: str = DECODE, day: int = 999) -> int:
    return sum(
        each.savings[line].ppm for each in history if line in each.savings and each.served.counts_at(at(day))
    )


@given(st.integers(0, 20_000_000))
def test_what_remains_of_a_price_is_rounded_down_and_never_below_zero(log: int) -> None:
    remaining = remaining_ppm(log)
    assert 0 <= remaining <= MILLION
    assert remaining - 1e-3 <= MILLION * math.exp(-log / MILLION) < remaining + 1 + 1e-3


def test_no_saving_below_the_first_tree() -> None:
    assert remaining_ppm(0) == remaining_ppm(-5) == MILLION


def test_a_slower_line_saves_nothing_and_another_line_may() -> None:
    [found] = placed([clocked(1, "a", -50_000, **{PREFILL: 100_000})])
    assert set(found.savings) == {PREFILL}
    assert found.savings[PREFILL].ppm == MILLION - remaining_ppm(100_000)


def test_the_first_deployment_is_the_reference() -> None:
    first = Served("0", "base", at(0))
    found = placed([first, clocked(1, "a", 100_000)])
    assert best_tree(found[:1], at(1)) == "base"
    assert best_tree(found, at(1)) == "a"
    assert not found[0].savings and found[1].savings[DECODE].level_before_log_ppm == 0


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=6))
def test_splitting_never_saves_more_than_the_whole(parts: list[int]) -> None:
    split = placed([clocked(day, f"t{day}", part) for day, part in enumerate(parts, 1)])
    [whole] = placed([clocked(1, "all", sum(parts))])
    assert saved(split) == (whole.savings[DECODE].ppm if sum(parts) else 0)


@given(st.data())
def test_another_order_saves_the_same(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.integers(0, 300_000), min_size=2, max_size=6))
    orders = (parts, data.draw(st.permutations(parts)))
    sums = [saved(placed(clocked(day, f"t{day}", p) for day, p in enumerate(order, 1))) for order in orders]
    assert sums[0] == sums[1]


@given(st.lists(LOGS, min_size=1, max_size=8))
def test_no_history_saves_more_than_its_best_position(bounds: list[int]) -> None:
    found = placed([clocked(day, f"t{day}", bound) for day, bound in enumerate(bounds, 1)])
    best = max([0, *(each.positions[DECODE] for each in found)])
    assert (
        saved(found)
        == MILLION - remaining_ppm(best)
        == MILLION - remaining_ppm(level(found, DECODE, at(999)))
    )


@given(st.integers(1, 400_000), st.integers(1, 400_000))
def test_a_loss_that_is_mended_saves_nothing(gain: int, loss: int) -> None:
    """Clocked against the best tree, or against the slower one that is served: the same."""
    slow = clocked(2, "slow", -loss)
    against_best = clocked(3, "mended", 0)
    against_slow = replace(clocked(3, "mended", loss), against="slow")
    for mended in (against_best, against_slow):
        found = placed([clocked(1, "a", gain), slow, mended])
        assert not found[1].savings and not found[2].savings


def test_a_loss_on_one_line_for_a_gain_on_another_is_not_sold_back() -> None:
    """The best tree moves on with the gain in prefill; mending decode on top of it saves nothing."""
    traded = clocked(2, "b", -100_000, **{PREFILL: 200_000})
    mended = clocked(3, "c", 100_000)
    found = placed([clocked(1, "a", 150_000), traded, mended])
    assert set(found[1].savings) == {PREFILL} and not found[2].savings


def test_a_tree_that_was_rolled_back_does_not_count_from_then_on() -> None:
    lost = replace(clocked(1, "a", 100_000), lost_at=at(2))
    found = placed([lost, clocked(3, "b", 60_000)])
    assert level(found, DECODE, at(1)) == 100_000 and level(found, DECODE, at(4)) == 60_000
    assert found[1].savings[DECODE].level_before_log_ppm == 0


@given(st.integers(1, 400_000), LOGS)
def test_deployed_again_a_tree_saves_at_most_what_it_did(first: int, again: int) -> None:
    lost = replace(clocked(1, "a", first), lost_at=at(2))
    found = placed([lost, clocked(3, "a", again)])
    whole = placed([clocked(1, "a", first)])
    assert saved(found) <= saved(whole)


def test_a_rollback_is_no_saving_and_keeps_the_level_of_its_tree() -> None:
    history = [
        clocked(1, "a", 100_000),
        replace(clocked(2, "b", 50_000), lost_at=at(3)),
        Served("3", "a", at(3)),
    ]
    found = placed(history)
    assert not found[2].savings
    assert level(found, DECODE, at(4)) == 100_000
    assert best_tree(found, at(4)) == "a"


@pytest.mark.parametrize("line", [PREFILL, DECODE, MEMORY])
def test_each_line_is_on_its_own(line: str) -> None:
    [found] = placed([Served("1", "a", at(1), {line: 70_000})])
    assert set(found.savings) == {line}


@given(st.integers(0, 800_000), st.integers(0, 800_000), st.integers(0, 800_000))
def test_a_saving_in_parts_of_a_price_that_has_a_level_in_it_already(
    before: int, log: int, reference: int
) -> None:
    """What is above the level takes the price from there to the new level; what is below is in the price."""
    saving = Saving(DECODE, before, before + log)
    above, below = saving.above_ppm(reference), saving.below_ppm(reference)
    assert above == remaining_ppm(before - reference) - remaining_ppm(before + log - reference)
    assert 0 <= above <= MILLION and 0 <= below <= saving.ppm
    if reference <= before:
        assert below == 0
    if reference >= before + log:
        assert (above, below) == (0, saving.ppm)
    if reference == 0:
        assert (above, below) == (saving.ppm, 0)
