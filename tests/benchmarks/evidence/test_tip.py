"""What the document of a check of a merged tree says; base is the tree before the merge."""

import math
from typing import Any

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


def test_a_check_that_ended_early_is_unclear() -> None:
    assert outcome(undecided(make_pairs(0.8, 29, seed=3), "confirmation"), PAID_PPM) is TipOutcome.UNCLEAR


@pytest.mark.parametrize("kind", ["crash", "timeout", "wrong_output", "resource_limit", "policy_violation"])
def test_a_merged_tree_does_not_escape_its_checks_by_failing_in_them(kind: str) -> None:
    failed = ended_by(kind, "candidate", "call")
    assert outcome(failed, PAID_PPM) is TipOutcome.FAILED
    assert decide(failed).kind is not VerdictKind.GAIN


@pytest.mark.parametrize(
    ("kind", "side", "stage"),
    [
        ("infrastructure_error", "candidate", "call"),
        ("cancelled", "candidate", "call"),
        ("crash", "candidate", "start"),  # no code of a tree has run
        ("policy_violation", "base", "call"),
        ("crash", "base", "call"),  # it was not tried alone
    ],
)
def test_what_others_did_is_no_failure_of_the_merged_tree(kind: str, side: str, stage: str) -> None:
    assert outcome(ended_by(kind, side, stage), PAID_PPM) is TipOutcome.UNCLEAR


def test_a_tree_before_it_that_works_alone_was_harmed_by_the_merged_tree() -> None:
    harmed = ended_by("crash", "base", "call")
    pair = harmed["pairs"][0]
    harmed["base_checks"] = [{"pair": {**pair, "tree": "base"}, "failure": None}]
    assert outcome(harmed, PAID_PPM) is TipOutcome.FAILED
    again = {"kind": "crash", "stage": "call", "detail": "it ended"}
    harmed["base_checks"] = [{"pair": {**pair, "tree": "base"}, "failure": again}] * 2
    assert outcome(harmed, PAID_PPM) is TipOutcome.UNCLEAR


@pytest.mark.parametrize(
    ("side", "expected"), [("candidate", TipOutcome.FAILED), ("base", TipOutcome.UNCLEAR)]
)
def test_times_of_a_side_that_ran_while_frozen_are_not_trusted(side: str, expected: TipOutcome) -> None:
    pairs = make_pairs(0.8, 30, seed=3)
    pairs[4] = {**pairs[4], "cpu_while_frozen_ns": {"base": 0, "candidate": 0, side: 10**12}}
    assert outcome(undecided(pairs, "confirmation"), PAID_PPM) is expected


def ended_by(kind: str, side: str, stage: str) -> dict[str, Any]:
    event = {"kind": kind, "side": side, "stage": stage, "detail": "it ended", "pair": 29}
    return undecided(make_pairs(0.8, 30, seed=3), "confirmation", events=[event])
