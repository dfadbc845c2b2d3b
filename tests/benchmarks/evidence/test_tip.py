"""What the document of a check of a merged tree says; base is the tree before the merge."""

import math

import pytest

from benchmarks.evidence.decision import decide
from benchmarks.evidence.tip import gains_ppb, outcome
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.tip import TipOutcome
from tests.benchmarks.evidence.evidence_maker import make_pairs, undecided

PAID_PPM = 95_310  # +10 %


@pytest.mark.parametrize(
    ("effect", "expected"),
    [(1.1, TipOutcome.KEPT), (1.07, TipOutcome.KEPT), (1.03, TipOutcome.SLOW), (0.8, TipOutcome.SLOW)],
)
def test_less_than_half_of_what_was_paid_is_slow(effect: float, expected: TipOutcome) -> None:
    document = undecided(make_pairs(effect, 30, seed=3), "confirmation")
    assert outcome(document, PAID_PPM) is expected


def test_several_cases_are_combined_to_their_mean() -> None:
    document = undecided(make_pairs(1.1, 30, cases=("small", "large"), seed=3), "confirmation")
    gains = gains_ppb(document)
    assert len(gains) == 30
    assert sum(gains) / 30e9 == pytest.approx(math.log(1.1), abs=0.01)


def test_a_check_that_ended_early_or_in_which_a_side_failed_is_unclear() -> None:
    assert outcome(undecided(make_pairs(0.8, 29, seed=3), "confirmation"), PAID_PPM) is TipOutcome.UNCLEAR
    crash = {"kind": "crash", "side": "candidate", "stage": "call", "detail": "it ended"}
    failed = undecided(make_pairs(0.8, 30, seed=3), "confirmation", events=[crash])
    assert outcome(failed, PAID_PPM) is TipOutcome.UNCLEAR
    assert decide(failed).kind is not VerdictKind.GAIN


def test_times_of_a_side_that_ran_while_frozen_are_not_trusted() -> None:
    pairs = make_pairs(0.8, 30, seed=3)
    pairs[4] = {**pairs[4], "cpu_while_frozen_ns": {"base": 0, "candidate": 10**12}}
    assert outcome(undecided(pairs, "confirmation"), PAID_PPM) is TipOutcome.UNCLEAR
