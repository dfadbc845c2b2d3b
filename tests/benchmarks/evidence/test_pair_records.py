"""Signed records of pairs, and decisions over the pairs of several attempts of one candidate."""

import copy
from typing import Any

import pytest

from benchmarks.evidence.decision import decide_so_far, next_pairs
from benchmarks.evidence.document import seal
from benchmarks.evidence.pair_record import fault_of, pair_record, seal_pair
from benchmarks.evidence.schema import SCHEMA
from benchmarks.evidence.signing import generate_key, public_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.verdicts import VerdictKind
from tests.benchmarks.evidence.evidence_maker import CALLS, make_document, make_pairs, make_parts

KEY = generate_key()
CHECKS = {"outputs_checked": CALLS, "oracle_checked": 1}


def records(pairs: list[dict[str, Any]], kind: str = "gate", **changed: Any) -> list[dict[str, Any]]:
    """The pairs as an earlier attempt posted them."""
    parts = make_parts(pairs, kind, **changed)
    return [seal_pair(pair_record(parts, pair, CHECKS), KEY) for pair in pairs]


def so_far(pairs: list[dict[str, Any]], earlier: list[dict[str, Any]], kind: str = "gate") -> dict[str, Any]:
    """A document without its verdict, while the run goes on."""
    return {"schema": SCHEMA, **make_parts(pairs, kind, continues=earlier)}


def failed(report: Any) -> list[str]:
    return [check.name for check in report.checks if not check.holds]


def test_a_record_is_whole_and_signed() -> None:
    (record, *_) = records(make_pairs(1.1, 6))
    assert fault_of(record) == "" and fault_of(record, public_key=public_key(KEY)) == ""
    assert "another key" in fault_of(record, public_key=public_key(generate_key()))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda record: record["document"]["pair"]["calls"][0].__setitem__(1, 1), "digest"),
        (lambda record: record["document"]["pair"]["calls"].pop(), "not complete"),
        (lambda record: record["document"]["pair"]["cpu_while_frozen_ns"].update(base=10**9), "frozen"),
        (lambda record: record["document"].update(schema="gainshare.pair/0"), "not the record"),
        (lambda record: record["document"].pop("trees"), "not the record"),
        (lambda record: record["signature"].update(value=""), "signature"),
        (lambda record: record.pop("signature"), "not the record"),
    ],
)
def test_a_changed_record_is_refused(change: Any, fault: str) -> None:
    (record, *_) = copy.deepcopy(records(make_pairs(1.1, 6)))
    change(record)
    assert fault in fault_of(record)


@pytest.mark.parametrize("junk", [None, [], "x", {}, {"document": None, "digest": "", "signature": {}}, 7])
def test_what_is_no_record_has_a_fault_and_raises_nothing(junk: Any) -> None:
    assert "not the record" in fault_of(junk)


def test_a_run_continues_where_the_attempt_before_ended() -> None:
    earlier = records(make_pairs(1.0, 8, seed=2))
    document = so_far([], earlier)
    assert decide_so_far(document) is None
    assert next_pairs(document) == {"only": 4}  # up to the look at 12


def test_a_lost_attempt_that_had_found_a_regression_is_no_second_draw() -> None:
    """Whoever makes a runner lose a slow run gets no other answer by the next one's luck."""
    earlier = records(make_pairs(0.8, 12, seed=2))
    verdict = decide_so_far(so_far([], earlier))
    assert verdict is not None and verdict.kind is VerdictKind.REGRESSION
    lucky = make_document(make_pairs(1.5, 6, seed=3), continues=earlier)
    assert lucky["verdict"]["kind"] == "regression"


def test_a_gain_of_both_attempts_together_is_one() -> None:
    earlier = records(make_pairs(1.1, 7, seed=2))
    document = make_document(make_pairs(1.1, 5, seed=3), continues=earlier)
    assert (document["verdict"]["kind"], document["verdict"]["pairs"]) == ("gain", 12)
    report = verify_evidence(seal(document, KEY))
    assert report.ok, failed(report)
    assert [check.detail for check in report.checks if check.name == "continues"] == [
        f"{len(earlier)} earlier pairs, each signed"
    ]


def test_what_ended_for_futility_goes_on_to_the_next_look_and_no_further_than_the_last() -> None:
    earlier = records(make_pairs(1.0, 48, seed=2))
    document = so_far([], earlier)
    assert decide_so_far(document) is None and next_pairs(document) == {"only": 48}
    exhausted = records(make_pairs(1.0, 144, seed=2))
    verdict = decide_so_far(so_far([], exhausted))
    assert verdict is not None and (verdict.kind, verdict.pairs) == (VerdictKind.NO_GAIN, 144)


@pytest.mark.parametrize(
    ("changed", "another"),
    [
        ({"trees": {"base": "9" * 64, "candidate": "1" * 64}}, "another trees"),
        ({"harness": {"hash": "8" * 64, "version": "1"}}, "another judge"),
    ],
)
def test_pairs_of_another_base_or_judge_are_not_continued(changed: dict[str, Any], another: str) -> None:
    document = make_document(make_pairs(1.5, 6), continues=records(make_pairs(1.5, 6, seed=2), **changed))
    report = verify_evidence(seal(document, KEY))
    assert failed(report) == ["continues"] and not report.ok
    assert any(another in check.detail for check in report.checks)


def test_a_forged_earlier_pair_is_found() -> None:
    earlier = records(make_pairs(1.0, 6, seed=2))
    earlier[1]["document"]["pair"]["calls"][0][1] += 1
    document = make_document(make_pairs(1.5, 6), continues=earlier)
    assert "continues" in failed(verify_evidence(seal(document, KEY)))


def test_an_interrupted_confirmation_goes_on_to_its_number_of_pairs() -> None:
    earlier = records(make_pairs(1.2, 10, seed=2), "confirmation")
    assert next_pairs(so_far([], earlier, "confirmation")) == {"only": 20}
    document = make_document(make_pairs(1.2, 20, seed=3), "confirmation", continues=earlier)
    assert (document["verdict"]["kind"], document["verdict"]["pairs"]) == ("gain", 30)
    assert verify_evidence(seal(document, KEY)).ok


def test_a_repeated_confirmation_is_bounded_over_all_pairs() -> None:
    """A disputed confirmation is no second draw: a lucky one is diluted by the first, at a smaller error."""
    first = records(make_pairs(0.98, 30, seed=2), "confirmation")
    assert next_pairs(so_far([], first, "confirmation")) == {"only": 30}
    lucky = make_pairs(1.02, 30, seed=3)
    alone = make_document(lucky, "confirmation")["verdict"]
    pooled = make_document(lucky, "confirmation", continues=first)["verdict"]
    assert alone["kind"] == "gain" and alone["log_ppm_bound"] > 10_000
    assert (pooled["kind"], pooled["pairs"]) == ("no_gain", 60)
    assert pooled["log_ppm_bound"] < alone["log_ppm_bound"]
