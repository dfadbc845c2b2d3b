"""A base that is slow beside the patch, or in base's place, is not paid for."""

import copy
import math
from typing import Any

import pytest

from benchmarks.evidence.decision import decide, decide_so_far, next_extras
from benchmarks.evidence.document import seal
from benchmarks.evidence.partner import partner
from benchmarks.evidence.samples import read_samples
from benchmarks.evidence.schema import SCHEMA_2
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.verdicts import Verdict, VerdictKind
from tests.benchmarks.evidence.evidence_maker import make_document, make_pairs, undecided


def confirmed(effect: float, **how: Any) -> Verdict:
    return decide(undecided(make_pairs(effect, 30, **how), "confirmation"))


def by_schema_2(document: dict[str, Any]) -> Verdict:
    """The verdict of the judge that did not see these tricks."""
    older = {**copy.deepcopy(document), "schema": SCHEMA_2}
    for key in ("base_checks", "continues", "old"):
        del older[key]
    return decide(older)


@pytest.mark.parametrize(("slowdown", "spread"), [(1.11, 0.01), (1.11, 0.02), (1.27, 0.08)])
def test_a_partner_slowed_down_is_suspicious(slowdown: float, spread: float) -> None:
    document = undecided(
        make_pairs(slowdown, 30, slowdown=slowdown, spread=spread), "confirmation"
    )  # the candidate itself is no faster
    verdict = decide(document)
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert "paired with the patch" in verdict.reason


def test_schema_2_paid_for_a_partner_slowed_down() -> None:
    sparse = make_pairs(1.11, 30, slowdown=1.11, spread=0.05, every=6)
    assert by_schema_2(undecided(sparse, "confirmation")).kind is VerdictKind.GAIN


def test_a_small_slow_down_is_cut_from_the_price() -> None:
    honest = confirmed(1.10, seed=2)
    slowed = confirmed(1.10 * 1.03, slowdown=1.03, seed=2)
    assert slowed.kind is VerdictKind.GAIN
    assert honest.log_ppm_bound is not None and slowed.log_ppm_bound is not None
    assert slowed.log_ppm_bound == pytest.approx(honest.log_ppm_bound, abs=3_000)
    assert "the price is cut by it" in slowed.reason and "the price is cut" not in honest.reason
    assert "show that base lost" in slowed.reason


def test_the_cut_is_the_estimate_in_whole_millionths() -> None:
    pairs = make_pairs(1.10 * 1.03, 30, slowdown=1.03, seed=3)
    document = undecided(pairs, "confirmation")
    values = sorted(read_samples(document).by_case["only"])
    found = partner(read_samples(document))
    assert found.cut_log_ppm == -(-(found.slowdown.cut_ppb + found.seat.cut_ppb) // 1000) > 20_000
    assert decide(document).log_ppm_bound == values[10] // 1000 - found.cut_log_ppm


def test_a_gain_that_is_all_slow_down_pays_nothing() -> None:
    verdict = confirmed(1.03, slowdown=1.03)
    assert verdict.kind is VerdictKind.NO_GAIN
    assert "nothing is left" in verdict.reason and "the price is cut" in verdict.reason
    assert verdict.log_ppm_bound is not None and verdict.log_ppm_bound <= 0


def test_a_base_that_is_slow_in_its_own_place_is_suspicious() -> None:
    """The trick that got +23.3 %: its control pairs differed by 0.29 and 0.38, and nothing was said."""
    slow = make_pairs(1.0, 30, seat=1.233)
    document = undecided(slow, "confirmation")
    assert decide(document).kind is VerdictKind.SUSPICIOUS
    assert "may recognise its seat" in decide(document).reason
    sparse = undecided(make_pairs(1.0, 30, seat=1.233, spread=0.03, every=6), "confirmation")
    assert by_schema_2(sparse).kind is VerdictKind.GAIN
    gate = undecided(make_pairs(1.0, 6, seat=1.233))
    assert decide(gate).kind is VerdictKind.SUSPICIOUS
    assert by_schema_2(gate).kind is VerdictKind.GAIN


def test_a_base_that_is_a_little_slow_in_its_place_is_cut() -> None:
    verdict = confirmed(1.06, seat=1.03)
    assert verdict.kind is VerdictKind.GAIN
    assert verdict.log_ppm_bound == pytest.approx(math.log(1.06) * 1e6, abs=6_000)


def test_control_pairs_of_another_shape_or_twice_beside_one_pair_compare_nothing() -> None:
    pairs = make_pairs(1.5, 30)
    assert partner(read_samples(undecided(pairs))).slowdown.comparisons == 15
    other = copy.deepcopy(pairs)
    other[0]["shape"] = {"tokens": 300}
    assert partner(read_samples(undecided(other))).slowdown.comparisons == 14
    first, second = (place for place, pair in enumerate(pairs) if pair["control"] and place < 5)
    other = copy.deepcopy(pairs)
    other[second]["next_to"] = other[first]["next_to"]
    assert partner(read_samples(undecided(other))).slowdown.comparisons == 14


def test_a_confirmation_without_enough_comparisons_goes_on() -> None:
    document = undecided(make_pairs(1.5, 30, every=6), "confirmation")
    assert decide_so_far(document) is None
    assert next_extras(document).controls == 1
    lone = make_pairs(1.5, 30)
    for pair in lone:
        if pair["control"]:
            pair["next_to"] = 10_000
    assert decide_so_far(undecided(lone, "confirmation")) is None


def test_control_pairs_follow_the_noise() -> None:
    def controls(count: int, kind: str = "confirmation", **how: Any) -> int:
        return next_extras(undecided(make_pairs(1.1, count, **how), kind)).controls

    assert controls(0) == 3
    assert controls(12, spread=0.001) == 2  # 6 of 12 are there, 3 blocks to go
    assert controls(12, spread=0.08) == 6
    assert controls(6, "gate") == controls(6, "aa") == 1
    assert controls(6, "guard") == 0


def test_evidence_says_what_slow_down_would_have_been_found() -> None:
    def said(spread: float) -> tuple[str, str]:
        document = make_document(make_pairs(1.5, 30, spread=spread), "confirmation")
        report = verify_evidence(seal(document, generate_key()))
        detail = next(check.detail for check in report.checks if check.name == "controls")
        return document["verdict"]["reason"], detail

    steady, noisy = said(0.005), said(0.08)
    assert "15 control pairs compared, 12 needed; a slow-down of base by +0." in steady[1]
    assert "hides" not in steady[0]
    assert "would be found with 95 %" in noisy[1]
    assert "This machine's noise hides a slow-down of base below +" in noisy[0]


def test_an_a_a_run_doubts_nothing() -> None:
    assert decide(undecided(make_pairs(1.5, 12, slowdown=1.5), "aa")).kind is VerdictKind.GAIN
