"""What schema 3 asks for in addition, and that documents of schema 2 keep their own shape and signature."""

import copy
from typing import Any

import pytest

from benchmarks.evidence.canonical import canonical_bytes, parse
from benchmarks.evidence.document import build_document, seal, signed_bytes
from benchmarks.evidence.pair_record import pair_record, seal_pair
from benchmarks.evidence.schema import SCHEMA, SCHEMA_2, EvidenceError, validate
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.patch.policy import harness_hash
from tests.benchmarks.evidence.evidence_maker import make_document, make_pairs, make_parts
from tests.benchmarks.evidence.test_archive import SEALED as ARCHIVED

KEY = generate_key()
DOCUMENT = make_document(make_pairs(1.5, 12))
PARTS = make_parts(make_pairs(1.5, 6))
EARLIER = seal_pair(pair_record(PARTS, PARTS["pairs"][1], {"outputs_checked": 8, "oracle_checked": 1}), KEY)
OLD = {"tree": "2" * 64, "paid_log_ppm": 50_000}


def broken(change: Any) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return document


def test_the_environment_has_versions_digests_and_the_noise_floor() -> None:
    environment = DOCUMENT["environment"]
    for name in ("torch", "numpy", "cryptography"):
        assert environment["packages"][name]["version"]
        assert len(environment["packages"][name]["digest"]) == 64
    assert set(environment["compiler"]) == {"version", "digest"}
    assert 1_000 < environment["noise_floor_log_ppm"] < 20_000  # controls differ by 0.5 % in these samples


def test_a_false_noise_floor_is_found() -> None:
    document = broken(lambda document: document["environment"].update(noise_floor_log_ppm=1))
    report = verify_evidence(seal(document, KEY))
    assert {check.name for check in report.checks if not check.holds} == {"noise_floor"}


def test_one_control_pair_has_no_noise_floor() -> None:
    assert make_document(make_pairs(1.5, 6, every=6))["environment"]["noise_floor_log_ppm"] is None


def test_a_document_names_those_that_it_continues() -> None:
    document = make_document(make_pairs(1.5, 6), continues=[EARLIER])
    assert verify_evidence(seal(document, KEY)).ok
    assert DOCUMENT["continues"] == []


def test_a_confirmation_may_have_pairs_of_the_old_tree() -> None:
    pairs = make_pairs(1.2, 30)
    extra = make_pairs(1.0, 6, controls=False)
    for pair in extra:
        pair.update(tree="old", index=pair["index"] + len(pairs))
    document = make_document([*pairs, *extra], "confirmation", old=OLD)
    assert document["verdict"]["pairs"] == 30  # pairs of the old tree are none of the candidate's
    with pytest.raises(EvidenceError, match="names none"):
        make_document([*pairs, *extra], "confirmation")
    with pytest.raises(EvidenceError, match="confirmations only"):
        make_document(pairs, "gate", old=OLD)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("continues"),
        lambda document: document.update(continues=[EARLIER, EARLIER]),
        lambda document: document.update(continues=["sha256:" + "a" * 64]),
        lambda document: document.update(continues=[{**EARLIER, "digest": "a" * 64}]),
        lambda document: document.pop("old"),
        lambda document: document.update(old=EARLIER),
        lambda document: document.pop("trials"),
        lambda document: document["environment"].pop("compiler"),
        lambda document: document["environment"]["packages"].pop("cryptography"),
        lambda document: document["environment"]["packages"]["torch"].update(digest="short"),
        lambda document: document["environment"].pop("noise_floor_log_ppm"),
        lambda document: document["pairs"][0].pop("tree"),
        lambda document: document["pairs"][0].update(tree="candidate"),  # it is a control pair
        lambda document: document["pairs"][0].update(next_to=None),
        lambda document: document["pairs"][1].update(next_to=0),
        lambda document: document["pairs"][1].update(tree="another"),
    ],
)
def test_other_shapes_are_refused(change: Any) -> None:
    document = broken(change)
    with pytest.raises(EvidenceError, match="document"):
        validate(document)


SLOTS = {"tree": "old", "room_ppm": 1_250_000, "call_ns": {"only": 25}, "first_ns": {"only": 90}}


@pytest.mark.parametrize("slots", [SLOTS, None])
def test_the_environment_says_what_slots_were_made_of(slots: dict[str, Any] | None) -> None:
    environment = {**PARTS["environment"], "slots": slots}
    assert verify_evidence(seal(make_document(PARTS["pairs"], environment=environment), KEY)).ok


@pytest.mark.parametrize(
    "change",
    [
        lambda slots: slots.pop("first_ns"),
        lambda slots: slots.update(tree="candidate"),
        lambda slots: slots.update(room_ppm=0),
        lambda slots: slots["call_ns"].update(only=2.5),
        lambda slots: slots.update(factor=1),
    ],
)
def test_other_slots_are_refused(change: Any) -> None:
    slots = copy.deepcopy(SLOTS)
    change(slots)
    document = broken(lambda document: document["environment"].update(slots=slots))
    with pytest.raises(EvidenceError, match=r"environment\.slots"):
        validate(document)


def test_schema_2_keeps_its_shape() -> None:
    archived = parse(canonical_bytes(ARCHIVED[0]["document"]))
    validate(archived)
    assert archived["schema"] == SCHEMA_2 and SCHEMA != SCHEMA_2
    assert signed_bytes(archived).startswith(b"gainshare.evidence/2\n{")
    assert signed_bytes(DOCUMENT).startswith(b"gainshare.evidence/3\n{")
    for key, value in (("continues", []), ("old", None)):
        with pytest.raises(EvidenceError, match="unknown key"):
            validate({**archived, key: value})
    with pytest.raises(EvidenceError, match="missing"):
        validate({**archived, "schema": SCHEMA})


def test_this_judge_cannot_claim_an_award_with_the_rules_of_schema_2() -> None:
    parts = make_parts(make_pairs(1.5, 6))
    for key in ("base_checks", "continues", "old"):
        del parts[key]
    document = {**copy.deepcopy(build_document(**parts)), "schema": SCHEMA_2}
    for key in ("base_checks", "continues", "old", "earlier_confirmations"):
        del document[key]
    assert document["harness"]["hash"] == harness_hash()
    report = verify_evidence(seal(document, KEY))
    assert {check.name for check in report.checks if not check.holds} == {"award_eligible"}
