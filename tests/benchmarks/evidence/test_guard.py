"""What a guard run concludes: a gain in one suite must not cost elsewhere."""

from typing import Any

import pytest

from benchmarks.evidence.decision import decide, decide_so_far, next_pairs
from benchmarks.evidence.document import build_document, seal
from benchmarks.evidence.schema import SCHEMA, EvidenceError
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.verdicts import VerdictKind
from tests.benchmarks.evidence.evidence_maker import guard_parts, make_pairs

CASES = ("decode/small", "prefill/small")
QUALITY = "quality/small"


def guarded(count: int, cases: tuple[str, ...] = CASES, **effects: float) -> list[dict[str, Any]]:
    """`count` pairs of each case; `effects` by suite name, 1 where nothing is said."""
    by_case = {case: effects.get(case.partition("/")[0], 1.0) for case in cases}
    return make_pairs(1.0, count, cases=cases, effects=by_case, controls=False)


def undecided(pairs: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    return {"schema": SCHEMA, **guard_parts(pairs, **changed)}


def test_six_pairs_of_each_case_are_enough_where_nothing_is_worse() -> None:
    assert next_pairs(undecided(guarded(1))) == dict.fromkeys(CASES, 6)
    verdict = decide(undecided(guarded(6)))
    assert verdict.kind is VerdictKind.GAIN
    assert verdict.log_ppm_bound is None  # a guard prices nothing
    assert verdict.pairs == 12
    assert "all 5 guard rails hold" in verdict.reason


def test_a_loss_in_another_suite_is_a_regression_that_names_it() -> None:
    verdict = decide(undecided(guarded(6, decode=0.8)))
    assert verdict.kind is VerdictKind.REGRESSION
    assert "decode/small" in verdict.reason
    assert verdict.log_ppm_estimate is not None and verdict.log_ppm_estimate < -200_000


def test_a_loss_within_the_margin_is_allowed() -> None:
    assert decide(undecided(guarded(6, prefill=0.99))).kind is VerdictKind.GAIN


def test_a_case_that_is_unclear_is_measured_on_alone() -> None:
    pairs = [pair for pair in guarded(6) if pair["case"] == "prefill/small"]
    pairs += [pair for pair in guarded(6, decode=0.97) if pair["case"] == "decode/small"]
    for number, pair in enumerate(pairs):
        pair["index"] = number
    document = undecided(pairs)
    assert decide_so_far(document) is None
    assert next_pairs(document) == {"decode/small": 14, "prefill/small": 0}
    assert decide(undecided(guarded(96, decode=0.97))).kind is VerdictKind.REGRESSION  # it could not be shown


def test_more_memory_is_a_regression() -> None:
    pairs = guarded(6)
    for pair in pairs:
        if pair["case"] == "decode/small":
            pair["peak_memory_bytes"]["candidate"] *= 2
    verdict = decide(undecided(pairs))
    assert verdict.kind is VerdictKind.REGRESSION
    assert "peak memory of decode/small" in verdict.reason


def test_a_slower_start_is_a_regression() -> None:
    pairs = guarded(6)
    for pair in pairs:
        pair["load_ns"]["candidate"] *= 2
    verdict = decide(undecided(pairs))
    assert verdict.kind is VerdictKind.REGRESSION
    assert "time to load" in verdict.reason


def test_quality_is_looked_at_only_where_numerics_changed() -> None:
    cases = (*CASES, QUALITY)
    pairs = [pair for pair in guarded(6, cases) if pair["case"] != QUALITY]
    document = undecided(pairs)
    document["suite"]["cases"].append(
        {"name": QUALITY, "calls": 5, "margin_log_ppm": 2_000, "only_if_numerics_changed": True}
    )
    assert decide(document).kind is VerdictKind.GAIN
    document["checks"]["outputs_differing"] = 1
    assert decide_so_far(document) is None
    assert next_pairs(document)[QUALITY] == 6
    worse = undecided(guarded(6, cases, quality=0.9))
    worse["checks"]["outputs_differing"] = 1
    assert decide(worse).kind is VerdictKind.QUALITY_LOSS


def test_a_guard_document_can_be_sealed_and_verified() -> None:
    sealed = seal(build_document(**guard_parts(guarded(6))), generate_key())
    report = verify_evidence(sealed)
    assert report.ok, [check for check in report.checks if not check.holds]


@pytest.mark.parametrize("key", ["memory_margin_log_ppm", "load_margin_log_ppm"])
def test_a_guard_document_without_its_margins_is_no_evidence(key: str) -> None:
    document = undecided(guarded(6))
    del document["suite"]["policy"][key]
    with pytest.raises(EvidenceError, match=key):
        decide_so_far(document)


def test_wrong_outputs_elsewhere_count_as_such() -> None:
    event = {"kind": "wrong_output", "detail": "off", "side": "candidate", "stage": "call"}
    assert decide(undecided(guarded(2), events=[event])).kind is VerdictKind.WRONG_OUTPUT
