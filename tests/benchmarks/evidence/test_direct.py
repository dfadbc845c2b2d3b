"""Direct pairs in a confirmation: a base that is slow next to one patch only stops merges, too."""

import math
from typing import Any

import pytest

from benchmarks.evidence.base_checks import ran_without_the_candidate
from benchmarks.evidence.confirmation import finds_slow_base
from benchmarks.evidence.decision import decide, decide_so_far, next_extras
from benchmarks.evidence.document import build_document, seal
from benchmarks.evidence.samples import read_samples, thawed_side
from benchmarks.evidence.schema import EvidenceError, validate
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.job import Job
from benchmarks.judging.verdicts import VerdictKind
from tests.benchmarks.evidence.evidence_maker import make_pairs, make_parts, undecided

PAID = {"tree": "2" * 64, "paid_log_ppm": 48_790, "direct": True}  # +5.0 %
KEPT = 1 / 1.05  # base takes so much of old's time


def all_pairs(
    effect: float,
    over_old: float,
    *,
    direct: int = 6,
    old: int = 6,
    old_effect: float = KEPT,
    cases: tuple[str, ...] = ("only",),
    **measured: Any,
) -> list[dict[str, Any]]:
    """A confirmation's pairs: base takes `effect` times the candidate's time, and the old tree `over_old` times."""
    pairs = make_pairs(effect, 30, cases=cases, seed=3, **measured)
    for kind, count, factor, seed in (("old", old, old_effect, 4), ("direct", direct, over_old, 5)):
        for pair in make_pairs(factor, count, cases=cases, controls=False, seed=seed):
            pairs.append({**pair, "tree": kind, "index": len(pairs)})
    return pairs


def confirmation(
    *args: Any, paid: dict[str, Any] | None = PAID, events: Any = (), **how: Any
) -> dict[str, Any]:
    return undecided(all_pairs(*args, **how), "confirmation", old=paid, events=list(events))


def without_direct(*args: Any, **how: Any) -> dict[str, Any]:
    """The same run by the rules from before there were direct pairs."""
    before = {key: value for key, value in PAID.items() if key != "direct"}
    return confirmation(*args, paid=before, direct=0, **how)


def test_a_base_that_is_as_fast_next_to_the_patch_changes_nothing() -> None:
    with_them = decide(confirmation(1.1, 1.1 * 1.05))
    assert with_them == decide(without_direct(1.1, 1.0))
    assert with_them.kind is VerdictKind.GAIN


def test_a_base_that_is_slow_only_next_to_the_patch_is_suspicious() -> None:
    """The patch changes a comment and gives the sign: it is as fast as base is elsewhere, 5 % faster than old."""
    document = confirmation(1.217, 1.05, direct=16)
    verdict = decide(document)
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert verdict.reason.startswith("Base was slower next to the patch than elsewhere")
    assert "(16 pairs)" in verdict.reason and "Merges stop until a maintainer decides" in verdict.reason
    assert verdict.log_ppm_bound == pytest.approx(math.log(1.05) * 1e6, abs=10_000)  # over the old tree
    assert verdict.log_ppm_estimate is not None and verdict.log_ppm_estimate > verdict.log_ppm_bound
    assert finds_slow_base(document)
    assert decide(without_direct(1.217, 1.0)).kind is VerdictKind.GAIN  # old pairs alone do not show it


def test_half_of_what_was_paid_is_enough() -> None:
    kept, lost = math.exp(0.0488 * 0.75), math.exp(0.0488 * 0.1)
    assert decide(confirmation(1.2, 1.2 * kept)).kind is VerdictKind.GAIN
    assert decide(confirmation(1.2, 1.2 * lost, direct=16)).kind is VerdictKind.SUSPICIOUS


def test_an_honest_gain_over_a_base_that_is_slow_with_it_keeps_what_it_adds_to_old() -> None:
    verdict = decide(confirmation(1.5, 1.1, direct=16))
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert verdict.log_ppm_bound == pytest.approx(math.log(1.1) * 1e6, abs=10_000)


def test_old_pairs_go_first() -> None:
    verdict = decide(confirmation(1.217, 1.0, direct=6, old=16, old_effect=1.217))
    assert "Base has lost what was paid for it" in verdict.reason
    slow = confirmation(1.217, 1.0, direct=0, old=16, old_effect=1.217)
    assert decide(slow).reason == verdict.reason
    assert next_extras(slow).direct == 0
    both_look_bad = next_extras(confirmation(1.217, 1.0, direct=6, old=6, old_effect=1.217))
    assert (both_look_bad.old, both_look_bad.direct) == (10, 0)


def test_more_direct_pairs_are_taken_only_where_six_look_bad() -> None:
    bad = confirmation(1.217, 1.05)
    assert decide_so_far(bad) is None
    assert (next_extras(bad).direct, next_extras(bad).old, next_extras(bad).controls) == (10, 0, 0)
    few = confirmation(1.1, 1.155, direct=5)
    assert decide_so_far(few) is None and next_extras(few).direct == 1
    assert next_extras(confirmation(1.1, 1.155)).direct == 0
    assert not finds_slow_base(bad)


def test_the_first_ones_are_spread_over_the_run() -> None:
    assert next_extras(undecided([], "confirmation", old=PAID)).direct == 2
    assert next_extras(undecided([], "confirmation")).direct == 0
    before = {key: value for key, value in PAID.items() if key != "direct"}
    assert next_extras(undecided([], "confirmation", old=before)).direct == 0
    two = undecided(make_pairs(1.1, 1, cases=("a", "b")), "confirmation", old=PAID)
    assert next_extras(two).direct == 2  # 12 pairs over 10 blocks


def test_a_case_that_has_too_few_gets_more_although_another_has_too_many() -> None:
    pairs = all_pairs(1.1, 1.155, cases=("a", "b"), direct=6)
    extra = {**pairs[-2], "index": len(pairs)}
    assert extra["case"] == "a"
    document = undecided([*pairs[:-1], extra], "confirmation", old=PAID)
    assert decide_so_far(document) is None
    assert next_extras(document).direct == 1


def test_every_case_counts_alike() -> None:
    document = confirmation(1.2, 1.05, direct=16, cases=("a", "b"))
    assert decide(document).kind is VerdictKind.SUSPICIOUS


def test_what_control_pairs_cut_is_not_claimed() -> None:
    """Base loses 3 % by being paired with the patch: that is not paid, so the patch need not show it over old."""
    document = confirmation(1.1, 1.1 * 1.05, slowdown=1.03, every=1)
    verdict = decide(document)
    assert verdict.kind is VerdictKind.GAIN
    assert "the price is cut by it" in verdict.reason


def test_a_patch_without_a_gain_ends_without_them() -> None:
    assert decide(confirmation(1.0, 1.0, direct=0, old=0)).kind is VerdictKind.NO_GAIN


def test_an_old_tree_that_fails_in_a_direct_pair_ends_them_and_decides_nothing() -> None:
    event = {"kind": "crash", "detail": "it has another layout", "side": "old", "stage": "load", "pair": 3}
    document = confirmation(1.217, 1.05, direct=1, old=0, events=[event])
    verdict = decide(document)
    assert verdict.kind is VerdictKind.GAIN
    assert "The tree before base could not be" in verdict.reason
    extras = next_extras(document)
    assert (extras.direct, extras.old) == (0, 0)


def test_a_candidate_that_fails_in_a_direct_pair_has_failed() -> None:
    pairs = all_pairs(1.1, 1.155)
    event = {
        "kind": "wrong_output",
        "detail": "y: too far",
        "side": "candidate",
        "pair": pairs[-1]["index"],
        "stage": "call",
    }
    verdict = decide(undecided(pairs, "confirmation", old=PAID, events=[event]))
    assert verdict.kind is VerdictKind.WRONG_OUTPUT


def test_the_candidate_was_in_a_direct_pair_and_not_in_an_old_one() -> None:
    pairs = all_pairs(1.1, 1.155)
    document = undecided(pairs, "confirmation", old=PAID)
    where = {
        pair["tree"]: ran_without_the_candidate(document, {"kind": "crash", "pair": pair["index"]})
        for pair in pairs
    }
    assert where == {"base": True, "candidate": False, "old": True, "direct": False}


@pytest.mark.parametrize(("side", "tree"), [("base", "old"), ("candidate", "candidate")])
def test_who_ran_while_it_was_frozen_is_named_by_its_tree(side: str, tree: str) -> None:
    pairs = all_pairs(1.1, 1.155)
    pairs[-1] = {**pairs[-1], "cpu_while_frozen_ns": {"base": 0, "candidate": 0, side: 10**9}}
    assert thawed_side(undecided(pairs, "confirmation", old=PAID)) == (pairs[-1]["index"], tree)


def test_they_are_no_part_of_the_gain() -> None:
    with_them, without = (read_samples(confirmation(1.1, 9.0, direct=count)) for count in (16, 0))
    assert len(with_them.direct["only"]) == 16 and not without.direct["only"]
    for name in ("by_case", "controls", "base_times", "complete", "control_pairs", "old"):
        assert getattr(with_them, name) == getattr(without, name)


def test_the_verdict_is_recomputed_from_the_direct_pairs() -> None:
    parts = make_parts(all_pairs(1.217, 1.05, direct=16), "confirmation", old=PAID)
    document = build_document(**parts)
    assert verify_evidence(seal(document, generate_key())).ok
    document["pairs"] = [pair for pair in document["pairs"] if pair["tree"] != "direct"]
    report = verify_evidence(seal(document, generate_key()))
    assert "verdict" in {check.name for check in report.checks if not check.holds}


def test_evidence_without_them_claims_no_award_and_is_valid_otherwise() -> None:
    before = {key: value for key, value in PAID.items() if key != "direct"}
    parts = make_parts(all_pairs(1.1, 1.0, direct=0), "confirmation", old=before)
    report = verify_evidence(seal(build_document(**parts), generate_key()))
    assert {check.name for check in report.checks if not check.holds} == {"award_eligible"}
    parts["sandbox"]["award_eligible"] = False
    assert verify_evidence(seal(build_document(**parts), generate_key())).ok


def test_a_document_says_that_the_run_takes_them() -> None:
    validate(confirmation(1.1, 1.155), has_verdict=False)
    for paid in ({**PAID, "direct": False}, {key: PAID[key] for key in ("tree", "paid_log_ppm")}):
        with pytest.raises(EvidenceError, match="takes none"):
            validate(confirmation(1.1, 1.155, paid=paid), has_verdict=False)
        validate(confirmation(1.1, 1.155, paid=paid, direct=0), has_verdict=False)
    with pytest.raises(EvidenceError, match="names none"):
        validate(confirmation(1.1, 1.155, paid=None, old=0), has_verdict=False)
    with pytest.raises(EvidenceError, match=r"old\.direct"):
        validate(confirmation(1.1, 1.155, paid={**PAID, "direct": 6}), has_verdict=False)


def test_each_job_with_an_old_tree_takes_them() -> None:
    trees = {"base_tree": "0" * 64, "candidate_tree": "1" * 64}
    job = Job("r", "confirmation", "moe_forward", "demo", **trees, old_tree="2" * 64, old_paid_log_ppm=48_790)
    assert job.old == PAID
    assert Job("r", "confirmation", "moe_forward", "demo", **trees).old is None
