"""A base that lost what was paid for it is called slow, one that kept it is not."""

import random
from fractions import Fraction

import numpy as np
import pytest

from benchmarks.statistics.old import ALL_PAIRS, FIRST_PAIRS, STOP_ERROR, OldOutcome, old_decision
from benchmarks.statistics.units import PPB

PAID = PPB // 20


def gains(true_log: float, count: int = ALL_PAIRS, sd: float = 0.01, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [round(PPB * rng.gauss(true_log, sd)) for _ in range(count)]


def test_a_base_that_kept_its_gain_is_done_after_six_pairs() -> None:
    assert old_decision(gains(0.05, 5), PAID).outcome is OldOutcome.MEASURE_ON
    assert old_decision(gains(0.05, 5), PAID).pairs_wanted == FIRST_PAIRS
    kept = old_decision(gains(0.05, 6), PAID)
    assert (kept.outcome, kept.pairs) == (OldOutcome.KEPT, FIRST_PAIRS)


def test_a_base_that_lost_it_is_slow_after_fourteen() -> None:
    assert old_decision(gains(0.0, 6), PAID).pairs_wanted == ALL_PAIRS
    slow = old_decision(gains(-0.2), PAID)
    assert (slow.outcome, slow.pairs) == (OldOutcome.SLOW, ALL_PAIRS)
    ordered = sorted(gains(-0.2))
    assert (slow.lower_ppb, slow.upper_ppb) == (ordered[3], ordered[-2])


def test_one_pair_above_half_is_chance_and_two_are_not() -> None:
    below, above = [PAID // 4] * 12, PAID // 2
    assert old_decision([*below[:5], above, *below[:8]], PAID).outcome is OldOutcome.SLOW
    assert old_decision([*below[:5], above, *below[:7], above], PAID).outcome is OldOutcome.KEPT


def test_half_of_what_was_paid_exactly_is_enough() -> None:
    assert old_decision([25] * 6, 50).outcome is OldOutcome.KEPT
    assert old_decision([24] * 14, 50).outcome is OldOutcome.SLOW


def test_false_stops_are_rarer_than_one_in_a_thousand() -> None:
    assert STOP_ERROR == Fraction(15, 2**14) < Fraction(1, 1000)
    rng = np.random.default_rng(3)
    values = (rng.standard_t(3, (30_000, ALL_PAIRS)) * PPB / 50).astype(
        np.int64
    )  # worth exactly half of what was paid
    slow = sum(old_decision(row, 0).outcome is OldOutcome.SLOW for row in values.tolist())
    assert slow / 30_000 < 0.0015


@pytest.mark.parametrize("paid", [0.02, 0.05, 0.2])
def test_a_base_that_went_back_is_found(paid: float) -> None:
    found = sum(
        old_decision(gains(-0.2, seed=seed), round(paid * PPB)).outcome is OldOutcome.SLOW
        for seed in range(300)
    )
    assert found == 300
