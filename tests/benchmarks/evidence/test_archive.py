"""Evidence of an earlier judge verifies: its kinds and figures are recomputed, its words may be others than today's.

`archive/2026-11.jsonl` was sealed by the judge of commit c128597, one document a line.
"""

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.canonical import parse
from benchmarks.evidence.document import seal
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.patch.policy import harness_hash

ARCHIVE = Path(__file__).with_name("archive") / "2026-11.jsonl"
SEALED = [parse(line) for line in ARCHIVE.read_bytes().splitlines()]
FACTS = ("kind", "log_ppm_estimate", "log_ppm_bound", "pairs")


def name_of(sealed: dict[str, Any]) -> str:
    return str(sealed["document"]["run"]["id"])


def test_the_archive_has_every_kind_of_verdict_that_samples_and_events_lead_to() -> None:
    kinds = {sealed["document"]["verdict"]["kind"] for sealed in SEALED}
    assert len(SEALED) == 25
    assert len(kinds) == 11 and "patch_rejected" not in kinds  # such a patch is never run


@pytest.mark.parametrize("sealed", SEALED, ids=name_of)
def test_an_old_document_verifies(sealed: dict[str, Any]) -> None:
    assert sealed["document"]["harness"]["hash"] != harness_hash()
    report = verify_evidence(sealed)
    assert report.ok, [check for check in report.checks if not check.holds]
    stated = sealed["document"]["verdict"]
    assert [getattr(report.verdict, fact) for fact in FACTS] == [stated[fact] for fact in FACTS]


@pytest.mark.parametrize("sealed", SEALED, ids=name_of)
def test_an_old_document_with_another_kind_does_not(sealed: dict[str, Any]) -> None:
    document = copy.deepcopy(sealed["document"])
    document["verdict"]["kind"] = "gain" if document["verdict"]["kind"] != "gain" else "no_gain"
    report = verify_evidence(seal(document, generate_key()))
    assert "verdict" in {check.name for check in report.checks if not check.holds}
