"""Confirmations that a person had before against the same base: the document states them, and its bound follows."""

from typing import Any

import pytest

from benchmarks.evidence.decision import decide
from benchmarks.evidence.document import seal
from benchmarks.evidence.schema import EvidenceError, validate
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import VerificationReport, verify_evidence
from tests.benchmarks.evidence.evidence_maker import make_document, make_pairs

KEY = generate_key()


def failed(report: VerificationReport) -> list[str]:
    return [check.name for check in report.checks if not check.holds]


def confirmation(effect: float = 1.05, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    pairs = make_pairs(effect, 30, sd=0.02)
    return make_document(pairs, "confirmation", earlier_confirmations=earlier)


def earlier(lowest: int | None = None, count: int = 1) -> dict[str, Any]:
    return {"count": count, "lowest_log_ppm": lowest}


def test_the_bound_after_an_ended_confirmation_is_lower_and_says_why() -> None:
    first, later = confirmation()["verdict"], confirmation(earlier=earlier())["verdict"]
    assert first["kind"] == later["kind"] == "gain"
    assert later["log_ppm_bound"] < first["log_ppm_bound"] - 5_000
    assert later["log_ppm_estimate"] == first["log_ppm_estimate"]
    assert "with 95 % confidence" in first["reason"] and "same person" not in first["reason"]
    assert "with 99.999 % confidence" in later["reason"]
    assert "Another patch of the same person had a confirmation against this base before" in later["reason"]


def test_a_small_gain_is_not_confirmed_after_an_ended_one() -> None:
    first, later = confirmation(1.015)["verdict"], confirmation(1.015, earlier(count=3))["verdict"]
    assert (first["kind"], later["kind"]) == ("gain", "no_gain")
    assert "99.999 % lower bound" in later["reason"] and "3 other patches" in later["reason"]


def test_a_bound_that_was_given_back_caps_the_next_one() -> None:
    first = confirmation()["verdict"]["log_ppm_bound"]
    capped = confirmation(earlier=earlier(first - 1_000))["verdict"]
    assert capped["log_ppm_bound"] == first - 1_000
    assert "with 95 % confidence" in capped["reason"] and "at most the lowest of theirs" in capped["reason"]
    assert confirmation(earlier=earlier(first + 1_000))["verdict"]["log_ppm_bound"] == first


def test_verification_recomputes_the_bound_from_what_is_stated() -> None:
    document = confirmation(earlier=earlier())
    assert verify_evidence(seal(document, KEY)).ok
    for changed in (None, earlier(40_000)):
        forged = {**document, "earlier_confirmations": changed}
        assert "verdict" in failed(verify_evidence(seal(forged, KEY)))


def test_documents_from_before_the_count_verify_by_their_own_rules() -> None:
    document = confirmation()
    before = {key: value for key, value in document.items() if key != "earlier_confirmations"}
    assert decide(before) == decide(document)
    before["sandbox"] = {**before["sandbox"], "award_eligible": False}
    assert verify_evidence(seal(before, KEY)).ok


def test_this_judge_s_documents_state_it_to_be_award_eligible() -> None:
    document = confirmation()
    assert verify_evidence(seal(document, KEY)).award_eligible
    del document["earlier_confirmations"]
    assert failed(verify_evidence(seal(document, KEY))) == ["award_eligible"]


@pytest.mark.parametrize(
    "stated",
    [
        {"count": 0, "lowest_log_ppm": None},
        {"count": 1},
        {"count": 1, "lowest_log_ppm": 0},
        {"count": 1, "lowest_log_ppm": -5},
        {"count": True, "lowest_log_ppm": 5},
        {"count": 1, "lowest_log_ppm": 5, "more": 1},
        [1],
    ],
)
def test_another_shape_is_no_evidence(stated: Any) -> None:
    with pytest.raises(EvidenceError, match="earlier_confirmations"):
        validate({**confirmation(), "earlier_confirmations": stated})


def test_only_confirmations_state_them() -> None:
    gate = make_document(make_pairs(1.5, 6))
    assert gate["earlier_confirmations"] is None
    with pytest.raises(EvidenceError, match="belongs to confirmations"):
        validate({**gate, "earlier_confirmations": earlier()})
