"""Attempts of one candidate are one sequence: nothing is gained by submitting, stopping or splitting runs."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.statistics.attempts import pooled_gate
from benchmarks.statistics.gate import GateOutcome, GatePlan, gate_decision
from benchmarks.statistics.lineage import lineage_loss

PLAN = GatePlan(minimum_effect_log=math.log(1.01))


def noise(count: int, effect: float = 0.0, seed: int = 1, sd: float = 0.02) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(effect, sd) for _ in range(count)]


def test_a_first_attempt_is_the_plain_gate() -> None:
    pairs = noise(144, 0.03)
    pooled = pooled_gate([], pairs, PLAN)
    assert pooled.decision == gate_decision(pairs, PLAN)
    assert (pooled.earlier_pairs, pooled.pairs) == (0, 144)


def test_a_second_attempt_continues_where_futility_ended_the_first() -> None:
    first = [-0.001] * 6
    assert gate_decision(first, PLAN).outcome is GateOutcome.NO_GAIN
    again = pooled_gate([first], [], PLAN)
    assert again.decision.outcome is GateOutcome.CONTINUE
    assert (again.next_look, again.is_open) == (12, True)
    second = pooled_gate([first], [0.05] * 18, PLAN)
    assert (second.decision.outcome, second.decision.look) == (GateOutcome.CONTINUE, 24)  # 18 of 24, not 21
    third = pooled_gate([first, [0.05] * 18], [0.05] * 24, PLAN)
    assert (third.decision.outcome, third.decision.look) == (GateOutcome.GAIN, 48)


def test_the_same_pairs_alone_would_have_passed() -> None:
    """What pooling prevents: a fresh start after a bad beginning."""
    assert gate_decision([0.05] * 12, PLAN).outcome is GateOutcome.GAIN
    assert pooled_gate([[-0.001] * 6], [0.05] * 12, PLAN).decision.outcome is GateOutcome.CONTINUE


def test_futility_ends_the_second_attempt_too() -> None:
    pooled = pooled_gate([[-0.001] * 6], [-0.001] * 6, PLAN)
    assert (pooled.decision.outcome, pooled.decision.look) == (GateOutcome.NO_GAIN, 12)
    assert (pooled.is_open, pooled.next_look) == (True, 24)


def test_pairs_of_an_attempt_withdrawn_between_looks_count() -> None:
    pooled = pooled_gate([[0.05] * 9], [0.05] * 3, PLAN)
    assert (pooled.decision.outcome, pooled.decision.look) == (GateOutcome.GAIN, 12)
    assert pooled_gate([[0.05] * 9], [], PLAN).next_look == 12


def test_a_found_gain_or_regression_stays_found() -> None:
    gain, loss = [0.05] * 12, [-0.05] * 12
    for first, outcome in ((gain, GateOutcome.GAIN), (loss, GateOutcome.REGRESSION)):
        pooled = pooled_gate([first], [0.0] * 36, PLAN)
        assert (pooled.decision.outcome, pooled.decision.look) == (outcome, 12)
        assert not pooled.is_open


def test_a_candidate_without_looks_left_is_answered_without_measuring() -> None:
    used = noise(144)
    pooled = pooled_gate([used[:48], used[48:]], [], PLAN)
    assert (pooled.decision.outcome, pooled.decision.look) == (GateOutcome.NO_GAIN, 144)
    assert (pooled.next_look, pooled.is_open) == (None, False)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    effect=st.sampled_from([0.0, 0.01, 0.02, 0.05]),
    cuts=st.lists(st.integers(0, 144), max_size=5),
)
def test_how_the_pairs_are_split_into_attempts_changes_nothing(
    seed: int, effect: float, cuts: list[int]
) -> None:
    """With the same pairs measured before, the last attempt's answer does not depend on where attempts ended."""
    pairs = noise(144, effect, seed)
    before, fresh = pairs[:96], pairs[96:]
    places = [0, *sorted(min(cut, 96) for cut in cuts), 96]
    attempts = [before[start:end] for start, end in pairwise(places)]
    assert pooled_gate(attempts, fresh, PLAN) == pooled_gate([before], fresh, PLAN)


def test_resubmitting_a_no_op_until_nothing_is_left_hardly_ever_passes() -> None:
    passed = sum(
        pooled_gate([row[:48], row[48:96]], row[96:], PLAN).decision.outcome is GateOutcome.GAIN
        for row in (noise(144, 0.0, seed) for seed in range(1_000))
    )
    assert passed <= 4  # 1 in 1,000 expected at most; five would happen once in 270 such tests


def test_losses_of_a_lineage_add_up() -> None:
    found = lineage_loss([3_000, 2_000], 4_000, 10_000)
    assert (found.spent_ppm, found.with_new_ppm, found.remaining_ppm) == (5_000, 9_000, 5_000)
    assert not found.is_exceeded
    assert lineage_loss([3_000, 2_000], 5_001, 10_000).is_exceeded
    assert not lineage_loss([3_000, 2_000], 5_000, 10_000).is_exceeded


def test_a_gain_gives_back_what_was_lost_but_saves_nothing_up() -> None:
    assert lineage_loss([4_000, -3_000], 0, 10_000).spent_ppm == 1_000
    assert lineage_loss([-50_000], 0, 10_000).spent_ppm == 0
    assert lineage_loss([-50_000, 9_000], 2_000, 10_000).is_exceeded
    assert lineage_loss([8_000], -9_000, 10_000).with_new_ppm == 0


def test_an_empty_lineage_has_its_whole_budget() -> None:
    assert lineage_loss([], 10_000, 10_000).remaining_ppm == 10_000
    assert lineage_loss([20_000], 0, 10_000).remaining_ppm == 0
    with pytest.raises(ValueError, match="below zero"):
        lineage_loss([], 0, -1)
