"""Savings of memory earn awards only where a cgroup counted the peak."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.catalogue import PEAK_MEMORY, SUITES
from benchmarks.evidence.counting import is_counted_for_awards
from benchmarks.evidence.document import seal
from benchmarks.evidence.verify import verify_evidence
from benchmarks.sandbox.accounting.groups import COUNTED_BY, READINGS
from tests.benchmarks.evidence.evidence_maker import make_document, make_pairs

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
POLLED = COUNTED_BY["polled"]
READ = COUNTED_BY["cgroup-v2"] | {"memory": READINGS}


@pytest.mark.parametrize("suite", SUITES)
def test_only_the_suite_that_measures_memory_asks_how_it_was_counted(suite: str) -> None:
    for counted in (COUNTED_BY["cgroup-v1"], COUNTED_BY["cgroup-v2"]):
        assert is_counted_for_awards(suite, counted)
    for counted in (POLLED, READ):
        assert is_counted_for_awards(suite, counted) == (suite != PEAK_MEMORY.name)


@pytest.mark.parametrize(
    ("counted", "is_eligible"),
    [(COUNTED_BY["cgroup-v1"], True), (COUNTED_BY["cgroup-v2"], True), (POLLED, False), (READ, False)],
)
def test_evidence_of_a_saving_that_polls_counted_earns_nothing(
    counted: dict[str, str], is_eligible: bool
) -> None:
    report = verify_evidence(seal(of_peak_memory(counted), KEY))
    assert (report.ok, report.award_eligible) == (is_eligible, is_eligible)
    if not is_eligible:
        (failed,) = [check for check in report.checks if not check.holds]
        assert failed.name == "award_eligible" and counted["memory"] in failed.detail


def test_it_may_be_counted_so_where_it_claims_no_award() -> None:
    report = verify_evidence(seal(of_peak_memory(POLLED, award_eligible=False), KEY))
    assert report.ok and not report.award_eligible


def test_documents_of_other_judges_keep_the_rules_that_they_were_signed_under() -> None:
    older = of_peak_memory(POLLED)
    older["harness"] = {"hash": "e" * 64, "version": "0"}
    report = verify_evidence(seal(older, KEY))
    assert report.ok and report.award_eligible


def of_peak_memory(counted: dict[str, str], *, award_eligible: bool = True) -> dict[str, Any]:
    """A document that could earn an award for memory, counted so."""
    document = make_document(
        make_pairs(1.5, 6),
        sandbox={"level": "bubblewrap", "award_eligible": award_eligible, "counted_by": dict(counted)},
    )
    limits = PEAK_MEMORY
    document["suite"]["name"] = limits.name
    document["suite"]["policy"] |= {
        "minimum_effect_log_ppm": limits.minimum_effect_log_ppm,
        "cap_log_ppm": limits.cap_log_ppm,
        "worst_case_log_ppm": limits.worst_case_log_ppm,
    }
    return document
