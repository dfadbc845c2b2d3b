"""The gate passes clear gains, stops no-ops and regressions, and spends exactly the error it may."""

import itertools
import math
from fractions import Fraction

import pytest

from benchmarks.statistics.gate import (
    CLEAR_EFFECT_LOG,
    EXTENDED_LOOKS,
    LOOKS,
    GateOutcome,
    GatePlan,
    boundaries,
    gate_decision,
)
from benchmarks.statistics.median import tail_half
from benchmarks.statistics.walk import reached_at

PLAN = GatePlan(minimum_effect_log=math.log(1.01))
SPREAD = [-0.004, 0.003, 0.001, -0.002, 0.004, -0.001, 0.002, -0.003, 0.0005, -0.0005, 0.0015, -0.0015]


def pairs(effect: float, count: int, scale: float = 1.0) -> list[float]:
    return [effect + scale * noise for noise in itertools.islice(itertools.cycle(SPREAD), count)]


def test_boundaries_spend_no_more_than_alpha() -> None:
    needed = boundaries(Fraction(1, 1000))
    assert needed == {12: 12, 24: 21, 48: 36, 96: 67, 144: 95}
    assert float(sum(reached_at(needed).values())) == pytest.approx(0.00080557, abs=1e-8)
    assert tail_half(12, 12) == Fraction(1, 4096)
    assert tail_half(24, 21) < Fraction(15, 100_000)


def test_a_smaller_alpha_asks_for_more() -> None:
    strict, usual = boundaries(Fraction(1, 100_000)), boundaries(Fraction(1, 1000))
    assert strict[12] == 13  # out of reach
    assert all(strict[look] > usual[look] for look in usual)


def test_no_decision_before_the_first_look() -> None:
    decision = gate_decision(pairs(0.5, 5), PLAN)
    assert (decision.outcome, decision.look, decision.estimate) == (GateOutcome.CONTINUE, 0, None)


def test_a_large_gain_passes_at_the_first_look() -> None:
    decision = gate_decision(pairs(math.log(1.2), 6), PLAN)
    assert (decision.outcome, decision.look) == (GateOutcome.GAIN, 6)
    assert decision.bound is not None
    assert 0 < decision.bound < math.log(1.2)


def test_a_moderate_gain_waits_for_the_second_look() -> None:
    first = gate_decision(pairs(0.05, 6), PLAN)
    assert first.outcome is GateOutcome.CONTINUE
    second = gate_decision(pairs(0.05, 12), PLAN)
    assert (second.outcome, second.look) == (GateOutcome.GAIN, 12)
    assert second.bound == min(pairs(0.05, 12)) - PLAN.allowance_log


def test_a_large_but_shaky_gain_does_not_pass_at_the_first_look() -> None:
    shaky = [0.30, 0.05, 0.25, 0.08, 0.28, 0.10]
    assert gate_decision(shaky, PLAN).outcome is GateOutcome.CONTINUE
    one_below = [*pairs(0.3, 5), -0.001]
    assert gate_decision(one_below, PLAN).outcome is GateOutcome.CONTINUE


def test_the_first_look_asks_for_a_clear_effect() -> None:
    just_below = [CLEAR_EFFECT_LOG - 1e-6] * 6
    assert gate_decision(just_below, PLAN).outcome is GateOutcome.CONTINUE
    assert gate_decision([CLEAR_EFFECT_LOG] * 6, PLAN).outcome is GateOutcome.GAIN


@pytest.mark.parametrize(("effect", "look"), [(-0.3, 6), (-0.05, 12)])
def test_a_regression_stops_early(effect: float, look: int) -> None:
    decision = gate_decision(pairs(effect, 48), PLAN)
    assert (decision.outcome, decision.look) == (GateOutcome.REGRESSION, look)
    assert decision.bound is not None
    assert effect < decision.bound < 0


def test_a_patch_without_effect_stops_early() -> None:
    assert gate_decision(pairs(-0.001, 48), PLAN).look == 6
    decision = gate_decision(pairs(0.001, 48), PLAN)
    assert (decision.outcome, decision.look) == (GateOutcome.NO_GAIN, 12)


def test_an_effect_below_the_minimum_never_passes() -> None:
    quiet = pairs(0.008, 144, scale=0.1)  # as sure as can be, and too small
    decision = gate_decision(quiet, PLAN)
    assert (decision.outcome, decision.look) == (GateOutcome.NO_GAIN, 48)


def test_a_suites_larger_minimum_is_obeyed() -> None:
    strict = GatePlan(minimum_effect_log=0.06)
    assert gate_decision(pairs(0.05, 48), strict).outcome is GateOutcome.NO_GAIN
    assert gate_decision(pairs(0.07, 48), strict).outcome is GateOutcome.GAIN


def test_noise_raises_the_minimum_effect() -> None:
    noisy = pairs(0.012, 12, scale=12.0)
    assert gate_decision(noisy, PLAN).minimum_effect > PLAN.minimum_effect_log
    assert gate_decision(pairs(0.012, 12), PLAN).minimum_effect == PLAN.minimum_effect_log


def test_extended_looks_are_taken_only_where_noise_needs_them() -> None:
    hopeful = [0.013] * 30 + [0.004] * 18  # 30 of 48 above the allowance, the median above the minimum
    quiet = gate_decision(interleaved(hopeful), PLAN)
    assert (quiet.outcome, quiet.look) == (GateOutcome.NO_GAIN, 48)
    noisy = [0.03] * 30 + [-0.02] * 18
    decision = gate_decision(interleaved(noisy), PLAN)
    assert (decision.outcome, decision.look) == (GateOutcome.CONTINUE, 48)
    without = GatePlan(PLAN.minimum_effect_log, may_extend=False)
    assert gate_decision(interleaved(noisy), without).outcome is GateOutcome.NO_GAIN
    passing = gate_decision(interleaved([0.03] * 67 + [-0.02] * 29), PLAN)
    assert (passing.outcome, passing.look) == (GateOutcome.GAIN, 96)
    still_open = gate_decision(interleaved([0.03] * 62 + [-0.02] * 34), PLAN)
    assert (still_open.outcome, still_open.look) == (GateOutcome.CONTINUE, 96)
    found_late = gate_decision(interleaved([0.03] * 96 + [-0.02] * 48), PLAN)
    assert (found_late.outcome, found_late.look) == (GateOutcome.GAIN, EXTENDED_LOOKS[-1])
    final = gate_decision(interleaved([0.03] * 90 + [-0.02] * 54), PLAN)
    assert (final.outcome, final.look) == (GateOutcome.NO_GAIN, EXTENDED_LOOKS[-1])


def test_an_extended_look_without_hope_ends() -> None:
    fading = interleaved([0.03] * 30 + [-0.02] * 18) + interleaved([0.008] * 30 + [-0.02] * 18)
    decision = gate_decision(fading, PLAN)
    assert (decision.outcome, decision.look) == (GateOutcome.NO_GAIN, 96)


def interleaved(values: list[float]) -> list[float]:
    """The same values, high and low ones spread evenly, a low one first."""
    high, low = sorted(values, reverse=True), sorted(values)
    share = sum(value == high[0] for value in values) / len(values)
    out: list[float] = []
    for number in range(len(values)):
        out.append(high[0] if math.floor((number + 1) * share) > math.floor(number * share) else low[0])
    return out


def test_pairs_after_a_deciding_look_change_nothing() -> None:
    decided = gate_decision(pairs(0.05, 12), PLAN)
    assert gate_decision(pairs(0.05, 12) + [-1.0] * 132, PLAN) == decided


def test_exactly_the_needed_number_above_the_allowance_passes() -> None:
    above, below = PLAN.minimum_effect_log * 1.5, PLAN.allowance_log
    needed = [below] * 3 + [above] * 21
    assert gate_decision(needed, PLAN).outcome is GateOutcome.GAIN
    assert gate_decision([below] * 4 + [above] * 20, PLAN).outcome is GateOutcome.CONTINUE


def test_fewer_looks_end_earlier() -> None:
    quick = GatePlan(PLAN.minimum_effect_log, looks=LOOKS[:2])
    assert quick.most_pairs == 12
    assert not quick.may_extend
    assert gate_decision(pairs(0.009, 12, scale=3.0), quick).outcome is GateOutcome.NO_GAIN
    assert PLAN.next_look(0) == 6
    assert PLAN.next_look(48) == 96
    assert PLAN.next_look(96) == 144
    assert PLAN.next_look(144) is None
    assert quick.next_look(12) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"looks": (6, 24)},
        {"looks": ()},
        {"minimum_effect_log": 0.0},
        {"alpha": Fraction(0)},
        {"alpha": Fraction(1)},
    ],
)
def test_impossible_plans_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"looks|minimum"):
        GatePlan(**{"minimum_effect_log": 0.01, **arguments})  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        gate_decision([0.1, value], PLAN)
