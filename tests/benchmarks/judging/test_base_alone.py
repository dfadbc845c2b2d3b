"""The judge tries base without the patch before it says whose failure it was. Real pairs in real sandboxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging import judge as judging
from benchmarks.judging.job import Job
from benchmarks.pairs.nameless import PREFIX
from benchmarks.pairs.schedule import BLOCK, Schedule
from benchmarks.pairs.seeds import Seeds
from tests.benchmarks.judging.judge_bench import Record
from tests.benchmarks.pairs.hostile_suite import HostileSuite, hostile_suite, script_trees

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

BASE, CANDIDATE = "0" * 64, "1" * 64
AGAIN = "it is tried again"


def judged(
    trees: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    *,
    kind: str = "gate",
    suite: HostileSuite | None = None,
    control_first: bool = False,
    on_log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """A run that ends by its first event or look; its verified document."""
    shown = suite or hostile_suite()
    monkeypatch.setattr(judging, "suite_of", lambda _: shown)
    monkeypatch.setattr(Seeds, "fresh", classmethod(lambda cls: secret(control_first=control_first)))

    class Told(Record):
        def on_log(self, text: str) -> None:
            super().on_log(text)
            on_log(text)

    hashes = {"base": BASE, "candidate": CANDIDATE if kind != "aa" else BASE}
    job = Job("run-1", kind, "moe_forward", "tiny", hashes["base"], hashes["candidate"], nonce="n", looks=1)  # type: ignore[arg-type]
    folders = {BASE: trees["base"], **({} if kind == "aa" else {CANDIDATE: trees["candidate"]})}
    sealed = judging.judge(job, tree_dirs=folders, key=generate_key(), callbacks=Told())
    report = verify_evidence(sealed)
    assert report.ok, [check for check in report.checks if not check.holds]
    document: dict[str, Any] = sealed["document"]
    return document


def secret(*, control_first: bool) -> tuple[bytes, Seeds]:
    """A secret by which the first pair is a control pair, or is none."""
    for number in range(256):
        seeds = Seeds(bytes([number]) * 32)
        suite = hostile_suite()
        first = Schedule(suite, seeds).block({suite.cases[0].name: BLOCK}, controls=1)[0]
        if first.is_control == control_first:
            return bytes([number]) * 32, Seeds(bytes([number]) * 32)
    raise AssertionError("no such secret")


def repaired(trees: Mapping[str, Path]) -> Callable[[str], None]:
    """Takes the script out of all copies once base is tried without the patch: so it failed next to the patch only."""

    def on_log(text: str) -> None:
        if AGAIN in text:
            for copy in trees["base"].parent.glob(f"{PREFIX}*/model/script.json"):
                copy.write_text(json.dumps({"load": [], "call": []}))

    return on_log


@pytest.mark.parametrize(
    ("script", "kind"),
    [({"call": [["exit", 3]]}, "crash"), ({"load": [["raise", "no"]]}, "crash"), ({"call": [["sleep", 9]]}, "timeout")],
)  # fmt: skip
def test_a_base_that_fails_by_itself_is_found(
    script: dict[str, Any], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = judged(script_trees(tmp_path, side="base", **script), monkeypatch)
    assert [(event["side"], event["kind"]) for event in document["events"]] == [("base", kind)]
    assert [attempt["failure"]["kind"] for attempt in document["base_checks"]] == [kind, kind]
    assert document["verdict"]["kind"] == "infrastructure_error"
    assert "fails on its own" in document["verdict"]["reason"]


def test_a_base_that_fails_next_to_the_patch_only_is_the_patch_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = script_trees(tmp_path, side="base", call=[["exit", 3]])
    document = judged(trees, monkeypatch, on_log=repaired(trees))
    assert [attempt["failure"] for attempt in document["base_checks"]] == [None]
    assert document["base_checks"][0]["pair"]["calls"]
    assert document["verdict"]["kind"] == "wrong_output"
    assert "works next to itself" in document["verdict"]["reason"]


def test_a_control_pair_that_fails_once_is_nobody_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = script_trees(tmp_path, side="base", call=[["exit", 3]])
    document = judged(trees, monkeypatch, on_log=repaired(trees), control_first=True)
    assert document["pairs"][0]["control"]
    assert document["verdict"]["kind"] == "infrastructure_error"
    assert "without the patch" in document["verdict"]["reason"]


def test_base_s_wrong_answer_is_found_again_with_the_same_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is asked for every answer, so a base that errs in one turn only is found."""
    wrong = [["answer_number", "00004842"]]  # 50.0
    document = judged(script_trees(tmp_path, side="base", call=wrong), monkeypatch)
    assert [(event["side"], event["kind"]) for event in document["events"]] == [("base", "wrong_output")]
    assert "fails on its own" in document["verdict"]["reason"]


def test_a_calibration_whose_tree_fails_is_that_tree_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = judged(script_trees(tmp_path, side="base", call=[["exit", 3]]), monkeypatch, kind="aa")
    assert "fails on its own" in document["verdict"]["reason"]


def test_a_judge_that_stumbles_over_an_answer_blames_the_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the judge has not thought of: base works without the patch, so the patch is the cause."""

    class Stumbling(HostileSuite):
        def tolerance_of(self, output: str) -> Any:
            raise ZeroDivisionError("only where answers are compared")

    trees = script_trees(tmp_path, call=[])
    plain, suite = hostile_suite(), hostile_suite()
    fields = {name: getattr(suite, name) for name in suite.__dataclass_fields__}
    stumbling = Stumbling(**fields)
    monkeypatch.setattr(Stumbling, "part", lambda self, case: self if not healed else plain)
    healed: list[str] = []
    document = judged(
        trees,
        monkeypatch,
        suite=stumbling,
        on_log=lambda text: healed.append(text) if AGAIN in text else None,
    )
    assert document["verdict"]["kind"] == "wrong_output"
    assert "could not go on: ZeroDivisionError" in document["verdict"]["reason"]


@pytest.mark.parametrize(
    "script",
    [
        {"call": [["raise", "\ud800 \x00"]]},
        {"call": [["frame", 7, 1, '{"error":' + "[" * 500 + "]" * 500 + "}"]]},
        {"load": [["name", b"\x0cVmHWM:\tz".hex()]], "call": [["exit", 0]]},
        {"load": [["frame", 3, 1, "9" * 5_000]]},
    ],
    ids=["a surrogate", "an error that nests", "a name like a status", "5,000 digits"],
)
def test_a_hostile_candidate_has_a_verdict_that_counts_as_an_attempt(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of these is a failure of the runner, of which three in a row would put it into quarantine."""
    document = judged(script_trees(tmp_path, **script), monkeypatch)
    assert [event["side"] for event in document["events"]] == ["candidate"]
    assert document["verdict"]["kind"] in ("wrong_output", "build_failed", "policy_violation")
