"""Which answers pass and which do not."""

import numpy as np
import pytest

from benchmarks.pairs.checks import WrongAnswer, compare_oracle, compare_pair, distance
from benchmarks.suites.base import Array, Problem, Tensors, Tolerance

TOLERANCE = Tolerance(rms_ppb=2_000, peak_ppb=40_000)
RNG = np.random.default_rng(5)
EXACT = RNG.standard_normal((64, 32))
PLAIN = EXACT.astype(np.float32)


class FixedProblem(Problem):
    """A problem whose answer is known; `plain` is off by `plain_error` (relative, root mean square)."""

    def __init__(self, plain_error: float = 5e-7) -> None:
        self.plain_error = plain_error

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return {}

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        return {"y": EXACT}

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        return {"y": off_by(self.plain_error, seed=1)}


def beside_base(base: Array, candidate: Array, problem: Problem | None = None) -> WrongAnswer | None:
    return compare_pair({"y": base}, {"y": candidate}, problem or FixedProblem(), {}, 0, lambda _: TOLERANCE)


def beside_oracle(base: Array, candidate: Array, problem: Problem | None = None) -> WrongAnswer | None:
    return compare_oracle(
        {"y": base}, {"y": candidate}, problem or FixedProblem(), {}, 0, lambda _: TOLERANCE
    )


def off_by(relative: float, seed: int = 0) -> np.ndarray:
    """The exact answer with noise of this root mean square, in double precision so that nothing is rounded away."""
    noise = np.random.default_rng(seed).standard_normal(EXACT.shape)
    noise *= relative * np.sqrt(np.mean(EXACT**2)) / np.sqrt(np.mean(noise**2))
    return EXACT + noise


def test_distance_is_relative_to_the_other_s_root_mean_square() -> None:
    found = distance(off_by(1e-5), EXACT)
    assert found.rms_ppb == pytest.approx(10_000, rel=1e-3)
    assert found.peak_ppb > found.rms_ppb
    assert distance(1000 * off_by(1e-5), 1000 * EXACT).rms_ppb == pytest.approx(found.rms_ppb, abs=1)


def test_answers_within_rounding_pass() -> None:
    assert beside_base(off_by(5e-7, 1), off_by(5e-7, 2)) is None
    assert beside_oracle(off_by(5e-7, 1), off_by(6e-7, 2)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_wrong(bad: float) -> None:
    answer = PLAIN.copy()
    answer[3, 4] = bad
    wrong = beside_base(PLAIN, answer)
    assert wrong is not None and wrong.side == "candidate" and "1 of 2048" in wrong.detail
    wrong = beside_base(answer, PLAIN)
    assert wrong is not None and wrong.side == "base"


def test_the_oracle_tells_which_of_two_different_answers_is_wrong() -> None:
    wrong = beside_base(PLAIN, off_by(1e-3))
    assert wrong is not None and wrong.side == "candidate"
    wrong = beside_base(off_by(1e-3), PLAIN)
    assert wrong is not None and wrong.side == "base"


def test_one_wrong_element_is_found_though_the_mean_hides_it() -> None:
    answer = EXACT.copy()
    answer[0, 0] += 5e-5 * np.sqrt(np.mean(EXACT**2))
    apart = distance(answer, EXACT)
    assert apart.rms_ppb <= TOLERANCE.rms_ppb < TOLERANCE.peak_ppb < apart.peak_ppb
    assert beside_base(EXACT, answer) is not None


def test_one_token_of_zeros_is_found() -> None:
    answer = PLAIN.copy()
    answer[17] = 0
    assert beside_base(PLAIN, answer) is not None


@pytest.mark.parametrize(("base", "candidate", "passes"), [(5e-7, 6.2e-7, True), (5e-7, 6.5e-7, False)])
def test_the_candidate_s_error_may_be_a_quarter_more_than_base_s(
    base: float, candidate: float, passes: bool
) -> None:
    wrong = beside_oracle(off_by(base, 1), off_by(candidate, 2), FixedProblem(5e-7))
    assert (wrong is None) is passes
    assert passes or (wrong is not None and wrong.side == "candidate")


def test_a_base_more_exact_than_plain_arithmetic_does_not_raise_the_bar() -> None:
    assert beside_oracle(off_by(1e-8, 1), off_by(6e-7, 2), FixedProblem(5e-7)) is None


def test_errors_cannot_grow_from_gain_to_gain() -> None:
    """A base that has used up the margin already: 1.25 times its error is over twice a plain implementation's."""
    wrong = beside_oracle(off_by(9e-7, 1), off_by(1.1e-6, 2), FixedProblem(5e-7))
    assert wrong is not None and wrong.side == "candidate"


def test_two_patches_after_each_other_may_differ_twice() -> None:
    """A direct pair's trees are two patches apart, each of which was allowed to differ by the tolerance."""
    twice = TOLERANCE.times(2)
    assert (twice.rms_ppb, twice.peak_ppb) == (2 * TOLERANCE.rms_ppb, 2 * TOLERANCE.peak_ppb)
    assert (twice.error_ratio_ppm, twice.drift_ratio_ppm) == (1_562_500, TOLERANCE.drift_ratio_ppm)
    assert TOLERANCE.times(1) == TOLERANCE

    def wrong(tolerance: Tolerance, error: float) -> WrongAnswer | None:
        answers = {"y": off_by(5e-7, 2)}, {"y": off_by(error, 3)}
        return compare_oracle(*answers, FixedProblem(), {}, 0, lambda _: tolerance)

    found = wrong(TOLERANCE, 7e-7)
    assert found is not None and found.side == "candidate"
    assert wrong(twice, 7e-7) is None
    for error in (9e-7, 1.1e-6):  # the limit against plain arithmetic stays where it is: twice its error
        assert wrong(twice, error) is not None


def test_a_base_over_the_margin_is_base_s_own_fault() -> None:
    wrong = beside_oracle(off_by(1.2e-6, 1), off_by(5e-7, 2), FixedProblem(5e-7))
    assert wrong is not None and wrong.side == "base"


def test_half_precision_inside_is_refused() -> None:
    rounded = EXACT.astype(np.float16).astype(np.float64)
    assert beside_base(EXACT, rounded) is not None


def test_answers_whose_squares_overflow_are_wrong_and_not_an_error() -> None:
    huge: Array = np.array([1.7e308, -1.7e308])
    assert distance(huge, -huge).rms_ppb > 10**14
    assert distance(np.array([1.0, 1.0]), huge).rms_ppb >= 0
