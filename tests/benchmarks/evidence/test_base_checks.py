"""A failure of base is base's only where it fails again without the patch, twice; else it is the patch's."""

import copy
from typing import Any

import pytest

from benchmarks.evidence.base_checks import ATTEMPTS
from benchmarks.evidence.decision import decide, decide_so_far
from benchmarks.evidence.document import build_document, seal
from benchmarks.evidence.schema import SCHEMA_2, EvidenceError, validate
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.verdicts import VerdictKind
from tests.benchmarks.evidence.evidence_maker import make_pairs, make_parts, undecided

CRASH = {"kind": "crash", "stage": "call", "detail": "status 139"}
CONTROL = make_pairs(1.0, 1)[0]
WORKED = {"pair": CONTROL, "failure": None}
FAILED = {"pair": {**CONTROL, "calls": CONTROL["calls"][:2]}, "failure": dict(CRASH)}
NOT_STARTED = {"pair": {**CONTROL, "calls": []}, "failure": {**CRASH, "stage": "start"}}


def with_event(
    attempts: list[dict[str, Any]], *, pair: int = 1, run: str = "gate", **event: Any
) -> dict[str, Any]:
    """Pair 0 is a control pair, pair 1 measured the candidate."""
    events = [{**CRASH, "side": "base", "pair": pair, **event}]
    return undecided(make_pairs(1.0, 1), run, events=events, base_checks=copy.deepcopy(attempts))


@pytest.mark.parametrize("attempts", [[], [FAILED]])
def test_base_is_tried_again_before_anything_is_decided(attempts: list[dict[str, Any]]) -> None:
    assert decide_so_far(with_event(attempts)) is None
    assert decide(with_event(attempts)).kind is VerdictKind.INFRASTRUCTURE_ERROR


def test_a_base_that_fails_twice_more_has_failed() -> None:
    verdict = decide(with_event([FAILED] * ATTEMPTS))
    assert verdict.kind is VerdictKind.INFRASTRUCTURE_ERROR
    assert "The base tree fails on its own" in verdict.reason and "status 139" in verdict.reason


@pytest.mark.parametrize("attempts", [[WORKED], [FAILED, WORKED]])
@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({}, VerdictKind.WRONG_OUTPUT),
        ({"stage": "load"}, VerdictKind.BUILD_FAILED),
        ({"kind": "timeout"}, VerdictKind.TIMEOUT),
        ({"kind": "resource_limit"}, VerdictKind.RESOURCE_LIMIT),
        ({"kind": "wrong_output"}, VerdictKind.WRONG_OUTPUT),
        ({"kind": "protocol_violation"}, VerdictKind.POLICY_VIOLATION),
        ({"kind": "suspicious"}, VerdictKind.SUSPICIOUS),
        ({"kind": "quality_loss"}, VerdictKind.QUALITY_LOSS),
    ],
)
def test_a_base_that_works_beside_itself_failed_through_the_patch(
    attempts: list[dict[str, Any]], event: dict[str, Any], kind: VerdictKind
) -> None:
    verdict = decide(with_event(attempts, **event))
    assert verdict.kind is kind
    assert "works next to itself" in verdict.reason and "status 139" in verdict.reason


def test_a_control_pair_that_failed_once_is_nobody_s_failure() -> None:
    verdict = decide(with_event([WORKED], pair=0))
    assert verdict.kind is VerdictKind.INFRASTRUCTURE_ERROR
    assert "without the patch" in verdict.reason


def test_a_calibration_that_failed_once_is_nobody_s_failure() -> None:
    document = with_event([WORKED])
    del document["events"][0]["pair"]
    assert decide(document).kind is VerdictKind.INFRASTRUCTURE_ERROR


def test_a_machine_that_does_not_start_base_decides_nothing_about_it() -> None:
    verdict = decide(with_event([FAILED, NOT_STARTED]))
    assert verdict.kind is VerdictKind.INFRASTRUCTURE_ERROR
    assert "could not try it again" in verdict.reason


def test_a_build_of_base_is_tried_again_alone() -> None:
    build = {"kind": "build_failed", "stage": "build", "detail": "no such header"}
    events = [{**build, "side": "base"}]
    failed = {"pair": None, "failure": build}
    assert decide_so_far(undecided([], events=events, base_checks=[failed])) is None
    assert "fails on its own" in decide(undecided([], events=events, base_checks=[failed] * ATTEMPTS)).reason
    built = decide(undecided([], events=events, base_checks=[{"pair": None, "failure": None}]))
    assert built.kind is VerdictKind.BUILD_FAILED and "works next to itself" in built.reason


@pytest.mark.parametrize("side", ["base", "candidate"])
def test_in_a_calibration_of_one_tree_both_sides_are_base(side: str) -> None:
    tree = {"trees": {"base": "0" * 64, "candidate": "0" * 64}}
    assert decide_so_far(with_event([], run="aa", side=side) | tree) is None
    assert "fails on its own" in decide(with_event([FAILED] * ATTEMPTS, run="aa", side=side) | tree).reason
    worked = decide(with_event([WORKED], run="aa", side=side) | tree)
    assert worked.kind is VerdictKind.INFRASTRUCTURE_ERROR


@pytest.mark.parametrize("side", ["base", "candidate"])
@pytest.mark.parametrize("kind", ["crash", "timeout", "protocol_violation", "resource_limit"])
def test_what_fails_before_a_tree_is_loaded_is_the_machine_s_failure(side: str, kind: str) -> None:
    verdict = decide(with_event([], side=side, kind=kind, stage="start"))
    assert verdict.kind is VerdictKind.INFRASTRUCTURE_ERROR
    assert "before any tree was loaded" in verdict.reason


def test_a_failure_of_the_candidate_needs_no_attempt_at_base() -> None:
    assert decide(with_event([], side="candidate")).kind is VerdictKind.WRONG_OUTPUT


def test_a_document_without_attempts_is_decided_by_the_rule_of_its_time() -> None:
    document = with_event([]) | {"schema": SCHEMA_2}
    for name in ("base_checks", "continues", "old"):
        del document[name]
    assert "The base tree failed, not the patch" in decide(document).reason
    document["events"][0].update(stage="start", kind="timeout", side="candidate")
    assert decide(document).kind is VerdictKind.TIMEOUT


@pytest.mark.parametrize(
    "attempts",
    [
        [WORKED] * 3,
        [{"pair": CONTROL}],
        [{"pair": {**CONTROL, "control": False}, "failure": None}],
        [{"pair": {**CONTROL, "calls": []}, "failure": None}],
        [{"pair": {**CONTROL, "case": "another"}, "failure": None}],
        [{"pair": CONTROL, "failure": {"kind": "luck", "stage": "call", "detail": ""}}],
        [{"pair": CONTROL, "failure": {"kind": "crash"}}],
        ["no"],
    ],
)
def test_attempts_in_another_form_are_no_evidence(attempts: Any) -> None:
    with pytest.raises(EvidenceError, match="base_checks"):
        validate(with_event(attempts), has_verdict=False)


def test_verification_decides_again_from_the_attempts() -> None:
    events = [{**CRASH, "side": "base", "pair": 1}]
    parts = make_parts(make_pairs(1.0, 1), events=events, base_checks=[FAILED] * ATTEMPTS)
    sealed = seal(build_document(**parts), generate_key())
    assert verify_evidence(sealed).ok
    document = copy.deepcopy(sealed["document"])
    document["base_checks"][1] = WORKED  # the stated verdict does not follow any more
    again = seal(document, generate_key())
    failed = [check.name for check in verify_evidence(again).checks if not check.holds]
    assert failed == ["verdict"]
