"""A guard rail holds when a loss of its margin is refuted, within exact errors on both sides."""

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest

from benchmarks.catalogue.facts import (
    GUARD_LOAD_MARGIN_LOG_PPM,
    GUARD_MEMORY_MARGIN_LOG_PPM,
    GUARD_TIME_MARGIN_LOG_PPM,
)
from benchmarks.statistics.guard import (
    LOOKS,
    GuardOutcome,
    GuardPlan,
    guard_boundaries,
    guard_decision,
)
from benchmarks.statistics.units import PPM
from benchmarks.statistics.walk import reached_at

TIME_MARGIN_LOG = GUARD_TIME_MARGIN_LOG_PPM / PPM
PLAN = GuardPlan(TIME_MARGIN_LOG)
RAILS = 8


def test_boundaries_spend_at_most_five_percent() -> None:
    assert guard_boundaries() == {6: 6, 12: 10, 24: 18, 48: 32}
    assert Fraction(1, 25) < sum(reached_at(guard_boundaries()).values()) <= Fraction(1, 20)


@pytest.mark.parametrize(("sd", "most"), [(0.01, 1e-12), (0.02, 1e-6), (0.03, 0.01)])
def test_an_equal_candidate_passes_eight_rails(sd: float, most: float) -> None:
    """Exactly, for normal noise; the mirrored stop for a proven violation is rarer still than not holding."""
    above = Fraction(NormalDist().cdf(TIME_MARGIN_LOG / sd)).limit_denominator(10**6)
    fails = 1 - sum(reached_at(guard_boundaries(), above).values())
    stopped = sum(reached_at(guard_boundaries(), 1 - above).values())
    assert RAILS * float(fails + stopped) <= most


def test_an_equal_candidate_holds_at_the_first_look() -> None:
    decision = guard_decision([0.01, -0.01, 0.0, 0.02, -0.02, 0.005], PLAN)
    assert (decision.outcome, decision.look) == (GuardOutcome.HOLDS, 6)
    assert decision.bound == -0.02
    assert not decision.is_proven


def test_a_faster_candidate_holds() -> None:
    assert guard_decision([0.3] * 6, PLAN).outcome is GuardOutcome.HOLDS


def test_a_clear_loss_is_violated_early_and_proven() -> None:
    decision = guard_decision([-0.10] * 6, PLAN)
    assert (decision.outcome, decision.look, decision.is_proven) == (GuardOutcome.VIOLATED, 6, True)
    assert decision.estimate == -0.10


def test_no_decision_before_the_first_look() -> None:
    decision = guard_decision([0.0] * 5, PLAN)
    assert (decision.outcome, decision.look, decision.bound) == (GuardOutcome.MEASURE_ON, 0, None)
    assert PLAN.next_look(5) == 6
    assert PLAN.next_look(6) == 12
    assert PLAN.next_look(48) is None


def test_an_unclear_rail_is_measured_on_up_to_the_cap() -> None:
    unclear = [0.0, -0.2] * 24
    for look in LOOKS[:-1]:
        assert guard_decision(unclear[:look], PLAN).outcome is GuardOutcome.MEASURE_ON
    last = guard_decision(unclear, PLAN)
    assert (last.outcome, last.look, last.is_proven) == (GuardOutcome.VIOLATED, 48, False)
    short = GuardPlan(TIME_MARGIN_LOG, most_pairs=12)
    assert guard_decision(unclear[:12], short).outcome is GuardOutcome.VIOLATED
    assert short.looks == (6, 12)


def test_exactly_the_margin_is_not_within_it() -> None:
    assert guard_decision([-TIME_MARGIN_LOG] * 48, PLAN).outcome is GuardOutcome.VIOLATED
    assert guard_decision([-TIME_MARGIN_LOG + 1e-12] * 6, PLAN).outcome is GuardOutcome.HOLDS


def test_one_bad_pair_in_twelve_does_not_stop_an_equal_candidate() -> None:
    decision = guard_decision([0.0, -0.3, *[0.0] * 10], PLAN)
    assert (decision.outcome, decision.look) == (GuardOutcome.HOLDS, 12)


def test_pairs_after_a_deciding_look_change_nothing() -> None:
    assert guard_decision([0.0] * 6 + [-1.0] * 42, PLAN) == guard_decision([0.0] * 6, PLAN)


@pytest.mark.parametrize("noise", ["normal", "t3", "exponential"])
def test_a_true_loss_of_the_margin_seldom_holds(noise: str) -> None:
    rng = np.random.default_rng(8)
    draws = {
        "normal": rng.standard_normal((3_000, 48)),
        "t3": rng.standard_t(3, (3_000, 48)),
        "exponential": rng.exponential(1.0, (3_000, 48)) - math.log(2),
    }[noise]
    rows = (0.02 * draws - TIME_MARGIN_LOG).tolist()
    held = sum(guard_decision(row, PLAN).outcome is GuardOutcome.HOLDS for row in rows)
    assert held / 3_000 <= 0.06  # 5 % and three standard errors


def test_margins_are_what_they_say() -> None:
    for margin, percent in (
        (GUARD_TIME_MARGIN_LOG_PPM, 3),
        (GUARD_MEMORY_MARGIN_LOG_PPM, 2),
        (GUARD_LOAD_MARGIN_LOG_PPM, 10),
    ):
        assert math.expm1(margin / PPM) == pytest.approx(percent / 100, abs=1e-6)


def test_impossible_plans_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        GuardPlan(0.0)
    with pytest.raises(ValueError, match="above zero"):
        GuardPlan(math.inf)
    with pytest.raises(ValueError, match="one of"):
        GuardPlan(0.03, most_pairs=10)
    with pytest.raises(ValueError, match="finite"):
        guard_decision([math.nan] * 6, PLAN)
