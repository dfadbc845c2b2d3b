"""Nothing in sealed evidence can be changed unnoticed; a false verdict is recomputed and found."""

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evidence.canonical import NotCanonical, canonical_bytes, parse
from benchmarks.evidence.commitment import commit
from benchmarks.evidence.decision import make_plan
from benchmarks.evidence.document import build_document, digest, seal
from benchmarks.evidence.schema import EvidenceError, validate
from benchmarks.evidence.signing import generate_key, key_id, public_key, sign
from benchmarks.evidence.verify import VerificationReport, verify_bytes, verify_evidence
from benchmarks.judging.verdicts import VerdictKind
from tests.benchmarks.evidence.evidence_maker import SECRET, make_document, make_pairs, make_parts

pytestmark = pytest.mark.slow

KEY = generate_key()
DOCUMENT = make_document(make_pairs(1.5, 6))
SEALED = seal(DOCUMENT, KEY)
FILE = canonical_bytes(SEALED)
KNOWN: dict[str, Any] = {
    "trusted_keys": {key_id(public_key(KEY)): public_key(KEY)},
    "nonce": "nonce-1",
    "commitment": commit(SECRET, "nonce-1"),
    "require_installed_harness": True,
}


def failed(report: VerificationReport) -> set[str]:
    assert report.ok is not any(not check.holds for check in report.checks)
    return {check.name for check in report.checks if not check.holds}


def test_true_evidence_holds_online_and_offline() -> None:
    online, offline = verify_evidence(SEALED, **KNOWN), verify_bytes(FILE)
    assert online.ok
    assert offline.ok
    assert all(check.is_checked for check in online.checks)
    unchecked = {check.name for check in offline.checks if not check.is_checked}
    assert unchecked == {"key_trusted", "nonce", "commitment_posted"}
    assert online.verdict.kind is VerdictKind.GAIN
    assert online.award_eligible
    assert online.digest == SEALED["digest"] == digest(DOCUMENT)


def test_the_form_of_the_file_does_not_matter() -> None:
    pretty = json.dumps(SEALED, indent=2).encode()
    assert verify_bytes(pretty, **KNOWN).ok


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_any_flipped_byte_is_found(at: int, flip: int) -> None:
    data = FILE[:at] + bytes([FILE[at] ^ flip]) + FILE[at + 1 :]
    report = verify_bytes(data, **KNOWN)
    if report.ok:  # only a change that spells the same content may pass
        assert parse(data) == SEALED
    else:
        assert failed(report)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


LEAVES = list(leaves(SEALED))


@given(st.sampled_from(LEAVES), st.sampled_from(["text", 0, 1, -1, True, None, 2**70, 1.5, [], {}]))
@settings(max_examples=400, deadline=None)
def test_any_changed_field_is_found(path: tuple[Any, ...], value: Any) -> None:
    sealed = copy.deepcopy(SEALED)
    place: Any = sealed
    for step in path[:-1]:
        place = place[step]
    if place[path[-1]] == value and type(place[path[-1]]) is type(value):
        return
    place[path[-1]] = value
    assert failed(verify_evidence(sealed, **KNOWN))


@given(
    st.sampled_from([path for path in LEAVES if path[0] == "document"]),
    st.sampled_from([0, 1, 2**62, "x", None]),
)
@settings(max_examples=200, deadline=None)
def test_a_resigned_lie_never_raises(path: tuple[Any, ...], value: Any) -> None:
    """A runner that signs whatever it likes gets a report, never an exception."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for step in path[1:-1]:
        place = place[step]
    place[path[-1]] = value
    report = verify_evidence(resigned(document), **KNOWN)
    assert report.verdict.reason


def resigned(document: dict[str, Any], key: Any = KEY) -> dict[str, Any]:
    """Sealed without any check, as a dishonest runner could do."""
    public = public_key(key)
    message = str(document["schema"]).encode() + b"\n" + canonical_bytes(document)
    signature = {
        "algorithm": "ed25519",
        "key_id": key_id(public),
        "public_key": public,
        "value": sign(key, message),
    }
    return {"document": document, "digest": digest(document), "signature": signature}


def lying(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    for path, value in changes.items():
        place: Any = document
        *steps, last = path.split("__")
        for step in steps:
            place = place[step]
        place[last] = value
    return resigned(document)


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"verdict__log_ppm_bound": 10_000_000}, "verdict"),
        ({"verdict__log_ppm_estimate": None}, "verdict"),
        ({"verdict__kind": "no_gain"}, "verdict"),
        ({"verdict__pairs": 48}, "verdict"),
        ({"verdict__reason": "Because I say so."}, "verdict"),
        ({"pairs": make_pairs(1.0, 24)}, "verdict"),
        ({"run__nonce": "another"}, "nonce"),
        ({"secrets": "00" * 32}, "commitment_opens"),
        ({"secrets": "00"}, "commitment_opens"),
        ({"commitment": "0" * 64}, "commitment_posted"),
        ({"policy_hash": "0" * 64}, "policy"),
        ({"harness__hash": "0" * 64}, "harness"),
        ({"sandbox__level": "none"}, "award_eligible"),
        ({"plan": make_plan(looks=2)}, "award_eligible"),
        ({"plan": make_plan(confirmation_pairs=24)}, "award_eligible"),
        ({"suite__policy__minimum_effect_log_ppm": 1}, "award_eligible"),
        ({"suite__name": "unknown"}, "award_eligible"),
        ({"checks__outputs_checked": 1}, "verdict"),
    ],
)
def test_lies_with_a_good_signature_are_found(changes: dict[str, Any], check: str) -> None:
    report = verify_evidence(lying(**changes), **KNOWN)
    assert check in failed(report)
    assert not report.award_eligible


def test_another_runners_key_is_not_trusted() -> None:
    other = generate_key()
    assert failed(verify_evidence(resigned(DOCUMENT, other), **KNOWN)) == {"key_trusted"}
    assert verify_evidence(resigned(DOCUMENT, other)).ok  # offline no one can know


def test_a_swapped_key_under_a_trusted_name_is_found() -> None:
    other = generate_key()
    sealed = resigned(DOCUMENT, other)
    sealed["signature"]["key_id"] = key_id(public_key(KEY))
    assert {"key_id", "key_trusted"} <= failed(verify_evidence(sealed, **KNOWN))


def test_a_second_spelling_of_the_signature_is_refused() -> None:
    sealed = copy.deepcopy(SEALED)
    text = sealed["signature"]["value"]
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
        other = text[:-3] + letter + "=="
        if other != text and base64.b64decode(other) == base64.b64decode(text):
            sealed["signature"]["value"] = other
            assert failed(verify_evidence(sealed)) == {"signature"}
            return
    pytest.fail("base64 of 64 bytes has several spellings")


def test_evidence_made_at_home_earns_nothing() -> None:
    secret = commit(SECRET, "local")
    run = {"id": "r", "kind": "gate", "nonce": "local"}
    parts = make_parts(make_pairs(1.5, 6), run=run, commitment=secret)
    honest = build_document(**{**parts, "sandbox": {"level": "bubblewrap", "award_eligible": False}})
    report = verify_evidence(seal(honest, KEY))
    assert report.ok
    assert not report.award_eligible
    assert failed(verify_evidence(seal(build_document(**parts), KEY))) == {"award_eligible"}


def test_evidence_of_another_version_is_readable_but_not_required() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["harness"]["hash"] = document["policy_hash"] = "0" * 64
    document["verdict"]["reason"] = "In the words of another version."
    report = verify_evidence(resigned(document))
    assert report.ok
    assert {check.name for check in report.checks if not check.is_checked} >= {"policy", "harness"}


@pytest.mark.parametrize("kind", ["frozen", "few controls"])
def test_what_the_samples_show_is_named(kind: str) -> None:
    pairs = make_pairs(1.5, 6)
    if kind == "frozen":
        pairs[0]["cpu_while_frozen_ns"]["candidate"] = 10**9
        report = verify_evidence(seal(make_document(pairs), KEY))
        assert report.ok  # an honest runner says so itself
        assert report.verdict.kind is VerdictKind.SUSPICIOUS
    else:
        report = verify_evidence(lying(pairs=[pair for pair in pairs if not pair["control"]]), **KNOWN)
        assert "verdict" in failed(report)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=200, deadline=None)
def test_no_value_makes_verification_raise(value: Any) -> None:
    for sealed in (
        value,
        {"document": value, "digest": "", "signature": SEALED["signature"]},
        {**SEALED, "x": value},
    ):
        report = verify_evidence(sealed)
        assert not report.ok
        assert report.digest is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1.5]",
        b"[1e3]",
        b"[NaN]",
        b"[Infinity]",
        b'{"a":1,"a":1}',
        b"\xff",
        b'["\\ud800"]',
        b"[" * 100_000,
        b"[9223372036854775808]",
    ],
)
def test_loose_json_is_refused(text: bytes) -> None:
    if text == b'["\\ud800"]':
        with pytest.raises(NotCanonical):
            canonical_bytes(parse(text))
    else:
        with pytest.raises(NotCanonical):
            parse(text)
    assert not verify_bytes(text).ok


def test_canonical_form() -> None:
    value = {"b": [1, True, None, "\u00e9\n"], "a": {}}
    assert canonical_bytes(value) == '{"a":{},"b":[1,true,null,"\u00e9\\n"]}'.encode()
    assert parse(canonical_bytes(value)) == value
    for bad in ({1: 2}, 1.5, {"a": b"x"}, [set()], 2**63):
        with pytest.raises(NotCanonical):
            canonical_bytes(bad)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63) + 1, 2**63 - 1)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
        ),
        max_leaves=20,
    )
)
def test_canonical_round_trip(value: Any) -> None:
    assert parse(canonical_bytes(value)) == value


BROKEN: dict[str, tuple[str, Any]] = {
    "schema": ("schema", "gainshare.evidence/0"),
    "run kind": ("run__kind", "demo"),
    "unhashable run kind": ("run__kind", []),
    "extra key in run": ("run__more", 1),
    "short tree hash": ("trees__base", "00"),
    "upper-case hash": ("policy_hash", "A" * 64),
    "no cases": ("suite__cases", []),
    "case twice": ("suite__cases", [{"name": "only"}, {"name": "only"}]),
    "looks": ("plan__looks", [6, 24]),
    "alpha": ("plan__alpha_ppm", 500_000),
    "cap": ("suite__policy__cap_log_ppm", 10**9),
    "worst case above zero": ("suite__policy__worst_case_log_ppm", 1),
    "flag as number": ("sandbox__award_eligible", 1),
    "time without offset": ("started_at", "2025-01-01T00:00:00"),
    "end before start": ("finished_at", "2024-01-01T00:00:00+00:00"),
    "unknown event": ("events", [{"kind": "magic", "detail": ""}]),
    "event with more": ("events", [{"kind": "crash", "detail": "", "more": 1}]),
    "event side": ("events", [{"kind": "crash", "detail": "", "side": "judge"}]),
    "verdict kind": ("verdict__kind", "win"),
    "negative phase": ("phases_ns", {"build": -1}),
    "odd hex": ("secrets", "000"),
    "pair is no object": ("pairs", [1]),
}
BROKEN_PAIRS: dict[str, dict[str, Any]] = {
    "unknown case": {"case": "other"},
    "zero time": {"calls": [["base", 0], ["candidate", 1]]},
    "float time": {"calls": [["base", 1.0], ["candidate", 1]]},
    "same side twice": {"calls": [["base", 1], ["base", 1]]},
    "three sides": {"calls": [["base", 1], ["judge", 1]]},
    "spawn order": {"spawn_order": ["base", "base"]},
    "frozen without a side": {"cpu_while_frozen_ns": {"base": 0}},
    "shape": {"shape": {"tokens": "many"}},
    "control": {"control": 0},
    "order": {"index": -1},
}


@pytest.mark.parametrize("name", [*BROKEN, *BROKEN_PAIRS])
def test_broken_shapes_are_refused(name: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    if name in BROKEN:
        path, value = BROKEN[name]
        place: Any = document
        *steps, last = path.split("__")
        for step in steps:
            place = place[step]
        place[last] = value
    else:
        document["pairs"][1].update(BROKEN_PAIRS[name])
    with pytest.raises(EvidenceError, match=r"document|sealed"):
        validate(document)
    with pytest.raises((EvidenceError, NotCanonical)):
        seal(document, KEY)


def test_the_unbroken_document_is_valid() -> None:
    validate(DOCUMENT)
    assert seal(DOCUMENT, KEY)["document"] == DOCUMENT


def test_how_cpu_time_and_memory_were_counted_is_said() -> None:
    polled = {
        "level": "bubblewrap-user",
        "award_eligible": True,
        "counted_by": {"cpu": "clocks-and-rusage", "memory": "polls-and-high-water-marks"},
    }
    report = verify_evidence(seal(make_document(make_pairs(1.5, 6), sandbox=polled), KEY), **KNOWN)
    assert report.ok and report.award_eligible
    said = next(check.detail for check in report.checks if check.name == "sandbox")
    assert said == (
        "bubblewrap-user; CPU time counted by clocks-and-rusage, memory by polls-and-high-water-marks"
    )


def test_evidence_from_before_it_was_said_is_still_verified() -> None:
    older = make_parts(make_pairs(1.5, 6), harness={"hash": "e" * 64, "version": "0"})
    del older["sandbox"]["counted_by"]
    report = verify_evidence(seal(build_document(**older), KEY))
    assert report.ok and report.award_eligible
    assert "older" in next(check.detail for check in report.checks if check.name == "sandbox")
    older["harness"]["hash"] = make_parts([])["harness"]["hash"]  # this judge always says it
    assert failed(verify_evidence(seal(build_document(**older), KEY))) == {"award_eligible"}


@pytest.mark.parametrize(
    "counted",
    [
        {},
        "cgroup-v1",
        {"cpu": "cgroup-v1"},
        {"cpu": "guessed", "memory": "cgroup-v1"},
        {"cpu": [], "memory": {}},
    ],
)
def test_an_unknown_way_of_counting_is_no_evidence(counted: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["sandbox"]["counted_by"] = counted
    with pytest.raises(EvidenceError, match="counted_by"):
        validate(document)
