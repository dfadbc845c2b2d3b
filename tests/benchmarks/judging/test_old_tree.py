"""A confirmation that times an old tree, with real pairs in real sandboxes: old pairs, direct pairs, and the verdict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging import judge as judging
from benchmarks.judging.job import Job
from benchmarks.statistics.confirm import LEAST_PAIRS
from benchmarks.statistics.old import ALL_PAIRS, FIRST_PAIRS
from tests.benchmarks.judging.judge_bench import Record
from tests.benchmarks.pairs.hostile_suite import hostile_suite, script_tree

pytestmark = [pytest.mark.sandbox, pytest.mark.long, pytest.mark.measures, pytest.mark.timeout(600)]

HASHES = {"base": "0" * 64, "candidate": "1" * 64, "old": "2" * 64}


def confirmed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, paid_log_ppm: int, **call_ms: int
) -> dict[str, Any]:
    """The verified document of a confirmation whose trees answer after so many milliseconds."""
    monkeypatch.setattr(judging, "suite_of", lambda _: hostile_suite())
    trees = {
        HASHES[name]: script_tree(folder / name, call=[["sleep", ms / 1_000]]) for name, ms in call_ms.items()
    }
    job = Job(
        "run-1",
        "confirmation",
        "moe_forward",
        "tiny",
        HASHES["base"],
        HASHES["candidate"],
        nonce="n",
        confirmation_pairs=LEAST_PAIRS,
        old_tree=HASHES["old"],
        old_paid_log_ppm=paid_log_ppm,
    )
    sealed = judging.judge(job, tree_dirs=trees, key=generate_key(), callbacks=Record())
    report = verify_evidence(sealed)
    assert report.ok, [check for check in report.checks if not check.holds]
    document: dict[str, Any] = sealed["document"]
    return document


def test_a_base_that_kept_its_gain_takes_six_pairs_of_each_kind(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = confirmed(open_folder, monkeypatch, paid_log_ppm=400_000, base=60, candidate=30, old=120)
    assert document["verdict"]["kind"] == "gain", document["verdict"]
    counts = Counter(pair["tree"] for pair in document["pairs"])
    assert (counts["candidate"], counts["old"], counts["direct"]) == (LEAST_PAIRS, FIRST_PAIRS, FIRST_PAIRS)
    measured_last = max(pair["index"] for pair in document["pairs"] if pair["tree"] == "candidate")
    assert min(pair["index"] for pair in document["pairs"] if pair["tree"] == "direct") < measured_last / 2


def test_a_base_that_lost_its_gain_is_found_by_old_pairs_as_before(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = confirmed(open_folder, monkeypatch, paid_log_ppm=400_000, base=120, candidate=60, old=100)
    assert document["verdict"]["kind"] == "suspicious"
    assert "lost what was paid" in document["verdict"]["reason"]
    counts = Counter(pair["tree"] for pair in document["pairs"])
    assert counts["old"] == ALL_PAIRS and counts["direct"] <= FIRST_PAIRS
