"""A canary's document: what is sealed verifies, and nothing else; a hostile host's is refused without harm."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.canary.document import seal, verdict_from_dict, write_sealed
from benchmarks.canary.schema import MOST_BYTES, validate
from benchmarks.canary.verdict import decide
from benchmarks.canary.verify import CanaryReport, is_canary, verify_canary, verify_canary_bytes
from benchmarks.evidence.document import seal_form
from benchmarks.evidence.schema import EvidenceError
from benchmarks.evidence.signing import generate_key, key_id, public_key
from gainshare.cli.main import app
from tests.benchmarks.canary.documents import KEY, NONCE, SERVED, document, order


def failing(report: CanaryReport) -> set[str]:
    return {check.name for check in report.checks if not check.holds}


@pytest.fixture
def sealed() -> dict[str, Any]:
    return seal(document(), KEY)


def test_what_is_sealed_verifies(sealed: dict[str, Any]) -> None:
    key = public_key(KEY)
    report = verify_canary(sealed, trusted_keys={key_id(key): key}, nonce=NONCE, order=order())
    assert report.ok and report.verdict == verdict_from_dict(sealed["document"]["verdict"])
    assert report.digest == sealed["digest"] and is_canary(sealed)


def test_another_key_nonce_or_order_does_not_hold(sealed: dict[str, Any]) -> None:
    other = public_key(generate_key())
    report = verify_canary(
        sealed, trusted_keys={key_id(other): other}, nonce="b" * 64, order=order(candidate="9" * 64)
    )
    assert failing(report) == {"key_trusted", "nonce", "order"}


def test_a_shorter_plan_than_the_site_asked_for_does_not_hold(sealed: dict[str, Any]) -> None:
    assert failing(verify_canary(sealed, order=order(pairs=60))) == {"order"}


def test_a_tree_that_was_not_ordered_does_not_hold() -> None:
    made = document()
    made["trees"]["candidate"] = "8" * 64
    assert failing(verify_canary(seal_form(made, KEY))) == {"tree_candidate", "verdict"}
    assert not decide(made).passed and "clocked the tree 888888888888" in decide(made).why


def test_the_installed_tree_has_the_hash_that_the_host_says() -> None:
    asked = order(served="", best="")
    made = document(asked)
    assert made["trees"]["served"] == SERVED and verify_canary(seal(made, KEY), order=asked).ok


def test_a_changed_byte_breaks_digest_and_signature(sealed: dict[str, Any]) -> None:
    sealed["document"]["environment"]["cpu"] = "two"
    assert failing(verify_canary(sealed)) == {"digest", "signature"}


def test_a_verdict_that_does_not_follow_is_found_though_it_is_signed() -> None:
    """A host that says "passed" of a slow tree, and one that claims a greater gain."""
    made = document(factor=lambda line, batch: 1.2)
    made["verdict"]["passed"] = True
    assert failing(verify_canary(seal_form(made, KEY))) == {"verdict"}
    made = document(factor=lambda line, batch: 0.9)
    made["verdict"]["best"]["decode"]["bound_log_ppm"] += 1
    assert failing(verify_canary(seal_form(made, KEY))) == {"verdict"}


Change = tuple[tuple[str | int, ...], Any]
CALL = ("comparisons", 0, "rounds", 1, "calls")
CHANGES: list[Change] = [
    (("schema",), "gainshare.canary/3"),
    (("schema",), "gainshare.canary/1"),
    (("schema",), ["gainshare.canary/2"]),
    (("order", "plan", "pairs"), 10**9),
    (("order", "plan", "batches"), []),
    (("order", "plan", "batches"), [1, 1]),
    (("order", "plan", "shapes"), []),
    (("order", "nonce"), "A" * 64),
    (("order", "id"), 7),
    (("comparisons",), {}),
    (("comparisons", 0, "against"), "best"),
    (("comparisons", 0, "rounds"), []),
    (("comparisons", 0, "rounds", 1, "number"), 4),
    (("comparisons", 0, "rounds", 1, "load_ns", "candidate"), -1),
    (("comparisons", 0, "rounds", 1, "timed_ns"), True),
    ((*CALL, 4, "ns", "candidate"), 0),
    ((*CALL, 4, "ns", "candidate"), 10**16),
    ((*CALL, 4, "ns"), None),
    ((*CALL, 4, "pair"), 30),
    ((*CALL, 4, "pair"), None),
    ((*CALL, 4, "output_tokens"), 0),
    ((*CALL, 4, "prompt_tokens"), 0),
    ((*CALL, 4, "prompt_tokens"), None),
    ((*CALL, 5, "prompt_tokens"), 9),
    ((*CALL, 4, "order"), ["candidate", "candidate"]),
    ((*CALL, 4, "answers", "candidate"), []),
    ((*CALL, 4, "answers", "candidate"), [1]),
    ((*CALL, 5, "batch"), 3),
    ((*CALL, 4, "case"), ["prefill"]),
    (("events",), [{"against": "served", "kind": "nothing", "stage": "", "detail": ""}]),
    (("events",), [{"against": "served", "kind": "leak", "stage": "", "detail": "x" * 3_000}]),
    (("sandbox", "level"), "strong"),
    (("trees", "served"), ""),
    (("verdict", "served"), {"decode": {}}),
    (("verdict", "batch_times"), 1),
    (("verdict", "prefill_times"), None),
    (("finished_at",), "2020-01-01T00:00:00+00:00"),
    (("finished_at",), "tomorrow"),
    (("secret",), None),
    (("more",), 1),
]


@pytest.mark.parametrize(("path", "value"), CHANGES, ids=lambda given: str(given)[:60])
def test_a_field_that_is_not_what_it_must_be_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    made: Any = document()
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(EvidenceError):
        validate(made)
    with pytest.raises(EvidenceError):
        decide(made)
    report = verify_canary(seal_form(made, KEY))
    assert not report.ok and report.digest is None and not report.verdict.passed


def test_a_document_of_the_first_schema_verifies_as_it_did() -> None:
    """It was written before lengths of prompts were noted, so that no time to read one is known."""
    archived = (Path(__file__).parent / "archived" / "schema_1.json").read_bytes()
    report = verify_canary_bytes(archived)
    assert report.ok and report.verdict.passed and is_canary(json.loads(archived))
    assert report.verdict.batch_times and report.verdict.prefill_times == ()
    assert "prefill_times" not in json.loads(archived)["document"]["verdict"]
    renamed = json.loads(archived)["document"] | {"schema": "gainshare.canary/2"}
    assert not verify_canary(seal_form(renamed, KEY)).ok


def test_a_missing_field_is_refused() -> None:
    for name in document():
        made = document()
        del made[name]
        with pytest.raises(EvidenceError):
            validate(made)


def test_no_call_counts_twice() -> None:
    """A host that repeats its best pair."""
    made = document()
    calls = made["comparisons"][0]["rounds"][1]["calls"]
    calls.append(copy.deepcopy(calls[4]))
    with pytest.raises(EvidenceError, match="twice"):
        validate(made)


def test_calls_of_the_round_that_is_not_clocked_count_for_nothing() -> None:
    made = document()
    first, second = made["comparisons"][0]["rounds"][:2]
    first["calls"].append(second["calls"].pop(4))
    with pytest.raises(EvidenceError, match="round 0"):
        validate(made)


@pytest.mark.parametrize("given", [None, 1, [], {}, {"document": {}}, "x"])
def test_what_is_no_document_is_refused_without_an_exception(given: Any) -> None:
    assert not verify_canary(given).ok and not is_canary(given)


def test_bytes_that_are_too_many_or_no_json_are_refused() -> None:
    assert "more than" in verify_canary_bytes(b" " * (MOST_BYTES + 1)).verdict.why
    assert not verify_canary_bytes(b"[" * 100_000).ok
    assert not verify_canary_bytes(b'{"a": 1.5}').ok
    assert not verify_canary_bytes(b'{"a": 1, "a": 2}').ok


def test_the_same_document_always_gives_the_same_verdict() -> None:
    made = document(factor=lambda line, batch: 0.93)
    assert decide(json.loads(json.dumps(made))) == decide(made)


def run_verify(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", *words])
    return done.exit_code, done.output


def test_gainshare_verify_knows_a_canary(sealed: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "canary.json"
    write_sealed(sealed, file)
    status, output = run_verify(str(file), "--public-key", public_key(KEY), "--nonce", NONCE)
    assert status == 0 and "verified, verdict passed: no change" in output and "answers at once" in output
    status, output = run_verify(str(file), "--json")
    told = json.loads(output)
    assert told["ok"] and told["verdict"]["kind"] == "passed" and set(told["lines"]["served"]) >= {"decode"}
    assert run_verify(str(file), "--nonce", "b" * 64)[0] == 1
    assert run_verify(str(file), "--rerun")[0] != 0


def test_gainshare_verify_refuses_a_changed_canary(sealed: dict[str, Any], tmp_path: Path) -> None:
    sealed["document"]["verdict"]["why"] = "because\x1b[2J"
    file = tmp_path / "canary.json"
    file.write_text(json.dumps(sealed))
    status, output = run_verify(str(file))
    assert status == 1 and "NOT verified" in output and "\x1b[2J" not in output
