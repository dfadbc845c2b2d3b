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
from benchmarks.judging.noise_models import MODELS
from benchmarks.power.batch import guard
from benchmarks.statistics.guard import (
    BOUNDARIES,
    BOUNDARIES_2,
    LOOKS,
    GuardOutcome,
    GuardPlan,
    guard_decision,
)
from benchmarks.statistics.units import PPM
from benchmarks.statistics.walk import reached_at, spending_boundaries

TIME_MARGIN_LOG = GUARD_TIME_MARGIN_LOG_PPM / PPM
PLAN = GuardPlan(TIME_MARGIN_LOG)
RAILS = 8


def test_boundaries_spend_at_most_two_percent_for_independent_pairs() -> None:
    assert Fraction(3, 200) < sum(reached_at(BOUNDARIES).values()) <= Fraction(1, 50)


def test_schema_2_s_boundaries_spent_five_percent() -> None:
    shares = (Fraction(percent, 2000) for percent in (32, 30, 18, 20))
    assert spending_boundaries(dict(zip((6, 12, 24, 48), shares, strict=True))) == dict(BOUNDARIES_2)
    assert Fraction(1, 25) < sum(reached_at(BOUNDARIES_2).values()) <= Fraction(1, 20)


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_of_the_margin_holds_in_at_most_five_percent_of_every_noise(name: str) -> None:
    values = 0.02 * MODELS[name](np.random.default_rng(4), 20_000, LOOKS[-1]) - TIME_MARGIN_LOG
    assert guard(values, PLAN).holds.mean() <= 0.05
    if name == "AR(1) 0.3 of the candidate":
        assert guard(values, GuardPlan(TIME_MARGIN_LOG, BOUNDARIES_2)).holds.mean() > 0.10


@pytest.mark.parametrize(("sd", "most"), [(0.01, 1e-12), (0.02, 1e-6), (0.03, 0.01)])
def test_an_equal_candidate_passes_eight_rails(sd: float, most: float) -> None:
    """Exactly, for normal noise; the mirrored stop for a proven violation is rarer still than not holding."""
    above = Fraction(NormalDist().cdf(TIME_MARGIN_LOG / sd)).limit_denominator(10**6)
    fails = 1 - sum(reached_at(BOUNDARIES, above).values())
    stopped = sum(reached_at(BOUNDARIES, 1 - above).values())
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
    assert PLAN.next_look(6) == 14
    assert PLAN.next_look(96) is None


def test_an_unclear_rail_is_measured_on_up_to_the_cap() -> None:
    unclear = [0.0, -0.2] * 48
    for look in LOOKS[:-1]:
        assert guard_decision(unclear[:look], PLAN).outcome is GuardOutcome.MEASURE_ON
    last = guard_decision(unclear, PLAN)
    assert (last.outcome, last.look, last.is_proven) == (GuardOutcome.VIOLATED, 96, False)


def test_exactly_the_margin_is_not_within_it() -> None:
    assert guard_decision([-TIME_MARGIN_LOG] * 96, PLAN).outcome is GuardOutcome.VIOLATED
    assert guard_decision([-TIME_MARGIN_LOG + 1e-12] * 6, PLAN).outcome is GuardOutcome.HOLDS


def test_one_bad_pair_in_fourteen_does_not_stop_an_equal_candidate() -> None:
    decision = guard_decision([0.0, -0.3, *[0.0] * 12], PLAN)
    assert (decision.outcome, decision.look) == (GuardOutcome.HOLDS, 14)


def test_pairs_after_a_deciding_look_change_nothing() -> None:
    assert guard_decision([0.0] * 6 + [-1.0] * 90, PLAN) == guard_decision([0.0] * 6, PLAN)


@pytest.mark.parametrize("noise", ["normal", "t3", "exponential"])
def test_a_true_loss_of_the_margin_seldom_holds(noise: str) -> None:
    rng = np.random.default_rng(8)
    draws = {
        "normal": rng.standard_normal((3_000, 96)),
        "t3": rng.standard_t(3, (3_000, 96)),
        "exponential": rng.exponential(1.0, (3_000, 96)) - math.log(2),
    }[noise]
    rows = (0.02 * draws - TIME_MARGIN_LOG).tolist()
    held = sum(guard_decision(row, PLAN).outcome is GuardOutcome.HOLDS for row in rows)
    assert held / 3_000 <= 0.025  # 1.8 % and three standard errors


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
    with pytest.raises(ValueError, match="finite"):
        guard_decision([math.nan] * 6, PLAN)
