"""What trials of a bug's reproduction conclude, and which rows no judge could have written."""

from typing import Any

import pytest

from benchmarks.evidence.decision import decide, decide_so_far, next_pairs
from benchmarks.evidence.document import build_document, seal
from benchmarks.evidence.schema import SCHEMA, EvidenceError, validate
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.reproduction import NotAReproduction
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.rerun import rerun
from tests.benchmarks.evidence.evidence_maker import CALLS, make_pairs, make_parts, undecided

CASES = ("decode/small", "prefill/small")
READ = {"step": "read", "side": "none", "attempt": 0, "outcome": "readable", "detail": ""}


def row(step: str, side: str, attempt: int, outcome: str, detail: str = "") -> dict[str, Any]:
    return {"step": step, "side": side, "attempt": attempt, "outcome": outcome, "detail": detail}


def attempts(side: str, *outcomes: str) -> list[dict[str, Any]]:
    """One attempt per outcome: a check's, after an observation that answered, or an observation's own."""
    rows = []
    for number, outcome in enumerate(outcomes):
        if outcome in ("holds", "refused", "broken"):
            rows.append(row("observe", side, number, "answered", "2 bytes"))
            rows.append(row("check", side, number, outcome, f"{side} {outcome}"))
        else:
            rows.append(row("observe", side, number, outcome, f"{side} {outcome}"))
    return rows


BUG_SHOWN = [READ, *attempts("base", "refused", "refused", "refused")]
FIXED = [*BUG_SHOWN, *attempts("candidate", "holds", "holds", "holds")]


def parts(kind: str, trials: list[dict[str, Any]], pairs: int = 0, **changed: Any) -> dict[str, Any]:
    """The parts of a run about a bug, with `pairs` of each case."""
    made = make_parts(make_pairs(1.0, pairs, cases=CASES, controls=False), kind, **changed)
    made["suite"] |= {"name": "bug", "preset": "standard", "unit": "trials", "reproduction": "a" * 64}
    made["suite"]["cases"] = [{"name": case, "calls": CALLS} for case in CASES]
    if kind == "reproduction":
        made["trees"]["candidate"] = made["trees"]["base"]
    return {**made, "trials": [dict(row) for row in trials]}


def document(kind: str, trials: list[dict[str, Any]], pairs: int = 0, **changed: Any) -> dict[str, Any]:
    return {"schema": SCHEMA, **parts(kind, trials, pairs, **changed)}


@pytest.mark.parametrize(
    ("outcomes", "kind", "words"),
    [
        (("refused", "refused", "refused"), "gain", "3 of 3"),
        (("raised", "timeout", "refused"), "gain", "base raised"),
        (("crashed", "resource_limit", "raised"), "gain", "base crashed"),
        (("holds", "holds", "holds"), "no_gain", "Does not reproduce"),
        (("refused", "holds", "refused"), "no_gain", "Flaky: the bug shows in 2 of 3"),
        (("refused", "broken", "refused"), "build_failed", "base broken"),
        (("malformed", "malformed", "malformed"), "build_failed", "plain JSON data"),
    ],
)
def test_three_attempts_on_base_decide_a_reproduction(
    outcomes: tuple[str, ...], kind: str, words: str
) -> None:
    verdict = decide(document("reproduction", [READ, *attempts("base", *outcomes)]))
    assert verdict.kind == kind and words in verdict.reason
    assert (verdict.log_ppm_estimate, verdict.log_ppm_bound, verdict.pairs) == (None, None, 0)


def test_a_file_that_cannot_be_used_is_never_tried() -> None:
    unreadable = {**READ, "outcome": "broken", "detail": "reproduction.py has no function check"}
    verdict = decide(document("reproduction", [unreadable]))
    assert verdict.kind is VerdictKind.BUILD_FAILED and "no function check" in verdict.reason


def test_a_run_continues_until_its_attempts_and_pairs_are_there() -> None:
    for count in range(len(BUG_SHOWN)):
        assert decide_so_far(document("reproduction", BUG_SHOWN[:count])) is None
    for count in range(len(FIXED) + 1):
        assert decide_so_far(document("fix", FIXED[:count])) is None
    assert next_pairs(document("fix", FIXED)) == dict.fromkeys(CASES, 1)
    broken_off = decide(document("fix", FIXED))
    assert broken_off.kind is VerdictKind.INFRASTRUCTURE_ERROR


def test_a_fix_passes_with_one_right_pair_of_every_case() -> None:
    verdict = decide(document("fix", FIXED, pairs=1))
    assert (verdict.kind, verdict.pairs) == (VerdictKind.GAIN, 2)
    assert "all 2 cases" in verdict.reason and verdict.log_ppm_bound is None


@pytest.mark.parametrize("outcome", ["refused", "raised", "timeout", "malformed", "broken"])
def test_one_attempt_that_does_not_pass_is_no_fix(outcome: str) -> None:
    trials = [*BUG_SHOWN, *attempts("candidate", "holds", "holds", outcome)]
    verdict = decide(document("fix", trials))
    assert verdict.kind is VerdictKind.NO_GAIN
    assert (
        f"Not fixed: 1 of 3 attempts on the patched tree do not pass (candidate {outcome})" in verdict.reason
    )


@pytest.mark.parametrize(
    ("outcomes", "kind", "words"),
    [
        (("holds", "holds", "holds"), "no_gain", "does not show on the base tree any more"),
        (("refused", "holds", "holds"), "suspicious", "Flaky"),
        (("broken", "broken", "broken"), "suspicious", "does not work on the base tree"),
    ],
)
def test_a_fix_needs_a_base_that_shows_the_bug(outcomes: tuple[str, ...], kind: str, words: str) -> None:
    verdict = decide(document("fix", [READ, *attempts("base", *outcomes)]))
    assert verdict.kind == kind and words in verdict.reason


def test_a_fix_that_answers_wrongly_elsewhere_is_wrong_output_whichever_side_of_its_pair_said_so() -> None:
    for side in ("base", "candidate"):
        event = {"kind": "wrong_output", "detail": "y: off", "side": side, "stage": "call", "pair": 0}
        verdict = decide(document("fix", FIXED, events=[event]))
        assert verdict.kind is VerdictKind.WRONG_OUTPUT
    failing_base = {"kind": "build_failed", "detail": "no", "side": "base", "stage": "build"}
    assert decide(document("fix", [], events=[failing_base])).kind is VerdictKind.INFRASTRUCTURE_ERROR


def test_pairs_that_no_oracle_looked_at_prove_nothing() -> None:
    checks = {"outputs_checked": 20, "oracle_checked": 1, "outputs_differing": 0, "failures": []}
    verdict = decide(document("fix", FIXED, pairs=1, checks=checks))
    assert verdict.kind is VerdictKind.INFRASTRUCTURE_ERROR


@pytest.mark.parametrize(
    "trials",
    [
        attempts("base", "refused"),  # not read
        [READ, *attempts("candidate", "holds")],  # base was never tried
        [READ, row("check", "base", 0, "refused")],  # of nothing
        [READ, row("observe", "base", 0, "answered"), row("observe", "base", 1, "raised")],  # unchecked
        [READ, row("observe", "base", 1, "raised")],  # a number left out
        [READ, *attempts("base", "raised", "raised", "raised"), row("observe", "base", 3, "raised")],
        [*BUG_SHOWN, *attempts("candidate", "holds"), row("observe", "base", 3, "raised")],
        [{**READ, "outcome": "broken"}, *attempts("base", "refused")],  # continues after a useless file
        [READ, *attempts("base", "holds", "holds", "holds"), *attempts("candidate", "holds")],
    ],
)
def test_rows_in_an_order_that_no_judge_makes_are_no_evidence(trials: list[dict[str, Any]]) -> None:
    with pytest.raises(EvidenceError, match=r"document\.trials"):
        decide(document("fix", trials))


@pytest.mark.parametrize(
    "changed",
    [
        {"outcome": "holds"},
        {"side": "base"},
        {"attempt": -1},
        {"detail": None},
        {"step": "think"},
        {"more": 1},
    ],
)
def test_a_row_has_exactly_its_shape(changed: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError, match=r"document\.trials"):
        validate(document("fix", [{**READ, **changed}]), has_verdict=False)


def test_runs_about_a_bug_name_their_reproduction_and_no_others_have_trials() -> None:
    nameless = document("fix", [READ])
    del nameless["suite"]["reproduction"]
    with pytest.raises(EvidenceError, match="reproduction"):
        validate(nameless, has_verdict=False)
    timed = undecided(make_pairs(1.2, 6))
    validate(timed, has_verdict=False)  # as it was signed before there were trials
    validate({**timed, "trials": []}, has_verdict=False)
    with pytest.raises(EvidenceError, match="runs about a bug"):
        validate({**timed, "trials": [READ]}, has_verdict=False)


def test_sealed_trials_verify_and_a_changed_one_does_not() -> None:
    sealed = seal(build_document(**parts("fix", FIXED, pairs=1)), generate_key())
    report = verify_evidence(sealed)
    assert report.ok, [check for check in report.checks if not check.holds]
    assert report.verdict.kind is VerdictKind.GAIN
    sealed["document"]["trials"][-1]["outcome"] = "refused"
    report = verify_evidence(sealed)
    assert {check.name for check in report.checks if not check.holds} >= {"digest", "signature", "verdict"}


def test_measuring_again_needs_the_very_reproduction_that_was_tried() -> None:
    with pytest.raises(NotAReproduction, match="--reproduction"):
        rerun(document("fix", FIXED, pairs=1), base="shipped", candidate="shipped", reproduction=b"another")
