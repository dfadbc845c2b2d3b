"""Differences of control pairs: what is cut, what is suspicious, and how many comparisons it takes."""

import math
import random

import pytest

from benchmarks.statistics.controls import (
    BLOCK,
    LEAST_COMPARISONS,
    Difference,
    next_controls,
    seat,
    slowdown,
)
from benchmarks.statistics.units import PPB


def values(true_log: float, count: int, sd: float, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [round(PPB * (true_log + rng.gauss(0, sd))) for _ in range(count)]


def judged(true_log: float, count: int, sd: float = 0.014, seed: int = 1) -> Difference:
    return slowdown(values(true_log, count, sd, seed))


def test_a_large_difference_is_suspicious_and_a_small_one_is_cut() -> None:
    large, small, none = judged(0.10, 12), judged(0.03, 12), judged(0.0, 12)
    assert large.is_suspicious
    assert not small.is_suspicious and small.counts
    assert small.cut_ppb == small.estimate_ppb == pytest.approx(0.03 * PPB, abs=0.01 * PPB)
    assert not none.is_suspicious and none.cut_ppb == 0


def test_a_base_that_is_faster_beside_the_candidate_changes_nothing() -> None:
    faster = judged(-0.3, 12)
    assert (faster.cut_ppb, faster.is_suspicious) == (0, False)


def test_few_comparisons_are_believed_only_when_they_are_large() -> None:
    assert judged(0.3, 1, 0.0).is_suspicious
    assert not judged(0.25, 1, 0.0).is_suspicious
    assert not judged(0.1, 5, 0.0).counts  # no bound exists
    assert judged(0.1, 6, 0.0).counts
    assert slowdown([]).is_suspicious is False
    assert seat([round(0.29 * PPB), round(0.38 * PPB)]).is_suspicious


def test_noisy_comparisons_suspect_no_one() -> None:
    noisy = slowdown([round(PPB * each) for each in (-0.6, 0.7, 0.5, -0.3, 0.6, -0.5, 0.2, 0.4)])
    assert noisy.estimate_ppb > 0.05 * PPB
    assert not noisy.is_suspicious


def test_what_would_be_found_is_found() -> None:
    """The stated size is found in about 95 of 100 runs."""
    stated = sorted(judged(0.0, 16, 0.03, seed).found_ppb or 0 for seed in range(501))[250]
    found = sum(judged(stated / PPB, 16, 0.03, seed + 5_000).counts for seed in range(1_000))
    assert 925 < found < 980


def test_honest_candidates_are_cut_in_one_run_of_fifty_and_never_suspected() -> None:
    runs = [judged(0.0, 14, 0.1, seed) for seed in range(4_000)]
    assert 40 < sum(run.counts for run in runs) < 120
    assert sum(run.is_suspicious for run in runs) <= 6  # 2 expected at the most


def test_as_many_control_pairs_as_the_noise_asks_for() -> None:
    def total(sd: float) -> int:
        taken: list[int] = []
        for block in range(5):
            more = next_controls(slowdown(taken), 5 - block)
            assert 1 <= more <= BLOCK
            taken += values(0.0, more, sd, seed=block)
        return len(taken)

    assert LEAST_COMPARISONS <= total(0.005) <= 14
    assert 18 <= total(0.03) <= 30
    assert total(0.1) == 3 + 3 + 3 * BLOCK


def test_a_long_confirmation_spreads_its_control_pairs() -> None:
    steady = judged(0.0, 6, 0.01)
    assert next_controls(steady, 8) == 1
    assert next_controls(steady, 1) == 6


def test_the_estimate_is_exact_in_whole_numbers() -> None:
    exact = slowdown([1_000_001, 1_000_002, 1_000_003] * 4)
    assert exact.estimate_ppb == 1_000_002
    assert math.isclose(exact.found_ppb or 0, 0, abs_tol=2)
