"""Old pairs in a confirmation: a base that lost what was paid for it stops merges, and the patch is priced against old."""

import math
from typing import Any

import pytest

from benchmarks.evidence.decision import decide, decide_so_far, next_extras
from benchmarks.evidence.document import build_document, seal
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.job import Job
from benchmarks.judging.verdicts import VerdictKind
from tests.benchmarks.evidence.evidence_maker import make_pairs, make_parts, undecided

PAID = {"tree": "2" * 64, "paid_log_ppm": 48_790}  # +5.0 %


def with_old(
    effect: float, old_effect: float, count: int, *, cases: tuple[str, ...] = ("only",)
) -> list[dict[str, Any]]:
    """A confirmation's pairs with `count` old pairs: base takes `old_effect` times old's time."""
    pairs = make_pairs(effect, 30, cases=cases, seed=3)
    for pair in make_pairs(old_effect, count, cases=cases, controls=False, seed=4):
        pairs.append({**pair, "tree": "old", "index": len(pairs)})
    return pairs


def confirmation(*args: Any, old: dict[str, Any] | None = PAID, **changed: Any) -> dict[str, Any]:
    return undecided(with_old(*args), "confirmation", old=old, **changed)


def test_a_base_that_kept_its_gain_changes_nothing() -> None:
    """Old is 5 % slower than base."""
    with_it = decide(confirmation(1.1, 1 / 1.05, 6))
    without = decide(undecided(make_pairs(1.1, 30, seed=3), "confirmation"))
    assert with_it == without
    assert with_it.kind is VerdictKind.GAIN


def test_a_base_that_is_slow_from_a_date_on_is_suspicious_and_the_patch_is_priced_against_old() -> None:
    """The diff without an honest gain that got +21.7 %: it changes a comment, and base is slow meanwhile."""
    document = confirmation(1.217, 1.217, 16)
    verdict = decide(document)
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert "Base has lost what was paid for it" in verdict.reason
    assert "Merges stop until a maintainer decides" in verdict.reason
    assert verdict.log_ppm_bound is not None and -15_000 < verdict.log_ppm_bound <= 0
    unseen = decide(undecided(make_pairs(1.217, 30, seed=3), "confirmation"))
    assert unseen.kind is VerdictKind.GAIN  # without the old pairs nothing shows it


def test_an_honest_gain_over_a_slow_base_keeps_what_it_adds_to_old() -> None:
    verdict = decide(confirmation(1.217 * 1.1, 1.217, 16))
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert verdict.log_ppm_bound == pytest.approx(math.log(1.1) * 1e6, abs=15_000)
    assert verdict.log_ppm_estimate is not None and verdict.log_ppm_estimate > verdict.log_ppm_bound


def test_more_old_pairs_are_taken_only_where_six_look_bad() -> None:
    assert decide_so_far(confirmation(1.217, 1.217, 6)) is None
    assert next_extras(confirmation(1.217, 1.217, 6)).old == 10
    assert next_extras(confirmation(1.217, 1.217, 6)).controls == 0
    assert decide_so_far(confirmation(1.1, 1 / 1.05, 5)) is None
    assert next_extras(confirmation(1.1, 1 / 1.05, 6)).old == 0


def test_old_pairs_are_spread_over_the_run() -> None:
    assert next_extras(undecided([], "confirmation", old=PAID)).old == 2
    assert next_extras(undecided(make_pairs(1.1, 6), "confirmation", old=PAID)).old == 2
    assert next_extras(undecided([], "confirmation")).old == 0
    two = undecided(make_pairs(1.1, 1, cases=("a", "b")), "confirmation", old=PAID)
    assert next_extras(two).old == 2  # 12 pairs over 10 blocks


def test_every_case_counts_alike() -> None:
    cases = ("a", "b")
    parts = make_parts(with_old(1.2, 1.2, 16, cases=cases), "confirmation", old=PAID)
    assert decide({"schema": "gainshare.evidence/3", **parts}).kind is VerdictKind.SUSPICIOUS


def test_a_patch_without_a_gain_ends_without_them() -> None:
    assert decide(confirmation(1.0, 1.2, 0)).kind is VerdictKind.NO_GAIN


def test_an_old_tree_that_fails_is_no_one_s_fault_and_is_said() -> None:
    event = {"kind": "crash", "detail": "it has another layout", "side": "old", "stage": "load", "pair": 3}
    verdict = decide(confirmation(1.1, 1.0, 1, events=[event]))
    assert verdict.kind is VerdictKind.GAIN
    assert "The tree before base could not be paired with it (crash: it has another layout)" in verdict.reason
    assert next_extras(confirmation(1.1, 1.0, 1, events=[event])).old == 0


def test_the_verdict_is_recomputed_from_the_old_pairs() -> None:
    paid = {**PAID, "direct": True}
    parts = make_parts(with_old(1.217, 1.217, 16), "confirmation", old=paid)
    document = build_document(**parts)
    assert verify_evidence(seal(document, generate_key())).ok
    document["old"] = {**paid, "paid_log_ppm": 1}  # base is much more than that slower
    assert verify_evidence(seal(document, generate_key())).verdict.kind is VerdictKind.SUSPICIOUS
    document["pairs"] = [pair for pair in document["pairs"] if pair["tree"] != "old"]
    report = verify_evidence(seal(document, generate_key()))
    assert "verdict" in {check.name for check in report.checks if not check.holds}


def test_only_a_confirmation_has_an_old_tree() -> None:
    trees = {"base_tree": "0" * 64, "candidate_tree": "1" * 64}
    Job("r", "confirmation", "moe_forward", "demo", **trees, old_tree="2" * 64, old_paid_log_ppm=1)
    for kind, tree, paid in (("gate", "2" * 64, 1), ("confirmation", "2" * 64, 0), ("confirmation", "", 1)):
        with pytest.raises(ValueError, match="old tree"):
            Job("r", kind, "moe_forward", "demo", **trees, old_tree=tree, old_paid_log_ppm=paid)  # type: ignore[arg-type]
