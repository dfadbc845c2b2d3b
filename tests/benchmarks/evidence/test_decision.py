"""Samples and events become one verdict, whose reason says what to do next."""

import math
from typing import Any

import pytest

from benchmarks.evidence.decision import decide, decide_so_far, make_plan, next_pairs
from benchmarks.evidence.partner import controls_needed
from benchmarks.evidence.samples import read_samples, turns
from benchmarks.evidence.schema import EvidenceError
from benchmarks.judging.verdicts import VerdictKind
from tests.benchmarks.evidence.evidence_maker import CALLS, make_pairs, renumbered, undecided


def kind_of(document: dict[str, Any]) -> VerdictKind:
    return decide(document).kind


def test_a_clear_gain_needs_six_pairs() -> None:
    verdict = decide(undecided(make_pairs(1.5, 6)))
    assert (verdict.kind, verdict.pairs) == (VerdictKind.GAIN, 6)
    assert verdict.log_ppm_estimate == pytest.approx(math.log(1.5) * 1e6, abs=10_000)
    assert verdict.log_ppm_bound is not None
    assert 0 < verdict.log_ppm_bound < verdict.log_ppm_estimate
    assert "confirmation" in verdict.reason


def test_a_small_gain_needs_twelve() -> None:
    pairs = make_pairs(1.05, 12)
    assert decide_so_far(undecided(pairs[:8])) is None
    assert decide(undecided(pairs)).kind is VerdictKind.GAIN


def test_no_effect_is_no_gain_and_slower_is_a_regression() -> None:
    no_gain, slower = decide(undecided(make_pairs(1.0, 24))), decide(undecided(make_pairs(0.8, 6)))
    assert no_gain.kind is VerdictKind.NO_GAIN
    assert "1.0 %" in no_gain.reason
    assert slower.kind is VerdictKind.REGRESSION
    assert slower.log_ppm_estimate is not None
    assert slower.log_ppm_estimate < -200_000


def test_a_run_that_ended_early_is_no_one_s_fault() -> None:
    document = undecided(make_pairs(1.05, 7))
    assert decide_so_far(document) is None
    verdict = decide(document)
    assert (verdict.kind, verdict.pairs) == (VerdictKind.INFRASTRUCTURE_ERROR, 7)
    assert kind_of(undecided([])) is VerdictKind.INFRASTRUCTURE_ERROR


def test_how_far_to_measure() -> None:
    assert next_pairs(undecided([])) == {"only": 6}
    assert next_pairs(undecided(make_pairs(1.05, 6))) == {"only": 12}
    assert next_pairs(undecided(make_pairs(1.0, 48))) == {"only": 96}
    assert next_pairs(undecided([], "confirmation")) == {"only": 30}
    assert next_pairs(undecided(make_pairs(1.05, 6), plan=make_plan(looks=1))) == {"only": 6}


def test_confirmation_sets_the_bound_from_a_fixed_number() -> None:
    pairs = make_pairs(1.05, 30, seed=3)
    assert decide_so_far(undecided(pairs[:-1], "confirmation")) is None
    verdict = decide(undecided(pairs, "confirmation"))
    assert (verdict.kind, verdict.pairs) == (VerdictKind.GAIN, 30)
    values = sorted(read_samples(undecided(pairs)).by_case["only"])
    assert verdict.log_ppm_bound == values[10] // 1000
    more = decide(undecided(make_pairs(1.05, 40), "confirmation"))
    assert more.pairs == 30  # pairs beyond the fixed number are not looked at


def test_confirmation_without_gain_pays_nothing() -> None:
    verdict = decide(undecided(make_pairs(1.0, 30), "confirmation"))
    assert verdict.kind is VerdictKind.NO_GAIN
    assert "Not confirmed" in verdict.reason


def test_a_confirmation_of_few_pairs_is_refused() -> None:
    with pytest.raises(EvidenceError, match="confirmation_pairs"):
        decide(undecided(make_pairs(1.5, 23), "confirmation", plan=make_plan(confirmation_pairs=23)))
    least = undecided(make_pairs(1.5, 24), "confirmation", plan=make_plan(confirmation_pairs=24))
    assert decide(least).kind is VerdictKind.GAIN


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"kind": "wrong_output"}, VerdictKind.WRONG_OUTPUT),
        ({"kind": "timeout"}, VerdictKind.TIMEOUT),
        ({"kind": "timeout", "stage": "build"}, VerdictKind.TIMEOUT),
        ({"kind": "resource_limit"}, VerdictKind.RESOURCE_LIMIT),
        ({"kind": "build_failed"}, VerdictKind.BUILD_FAILED),
        ({"kind": "crash", "stage": "load"}, VerdictKind.BUILD_FAILED),
        ({"kind": "crash", "stage": "call"}, VerdictKind.WRONG_OUTPUT),
        ({"kind": "crash", "stage": "start"}, VerdictKind.INFRASTRUCTURE_ERROR),
        ({"kind": "protocol_violation"}, VerdictKind.POLICY_VIOLATION),
        ({"kind": "policy_violation"}, VerdictKind.POLICY_VIOLATION),
        ({"kind": "quality_loss"}, VerdictKind.QUALITY_LOSS),
        ({"kind": "suspicious"}, VerdictKind.SUSPICIOUS),
        ({"kind": "infrastructure_error"}, VerdictKind.INFRASTRUCTURE_ERROR),
        ({"kind": "cancelled"}, VerdictKind.INFRASTRUCTURE_ERROR),
    ],
)
def test_events_outweigh_any_speed(event: dict[str, Any], kind: VerdictKind) -> None:
    verdict = decide(undecided(make_pairs(2.0, 12), events=[{"detail": "what was seen", **event}]))
    assert verdict.kind is kind
    assert "hat was seen" in verdict.reason
    assert verdict.log_ppm_bound is None
    assert verdict.pairs == 12


def test_a_late_build_is_told_apart_from_a_late_answer() -> None:
    event = {"kind": "timeout", "detail": "it waited"}
    reasons = [
        decide(undecided([], events=[event | stage])).reason
        for stage in ({"stage": "build"}, {"stage": "call"})
    ]
    assert [reason.partition(":")[0] for reason in reasons] == [
        "The patch took too long to build",
        "The patch did not answer in time",
    ]


def test_cheating_outweighs_what_else_went_wrong() -> None:
    events = [
        {"kind": "infrastructure_error", "detail": "disk full"},
        {"kind": "timeout", "detail": "slow"},
        {"kind": "protocol_violation", "detail": "bytes that were not asked for"},
    ]
    assert kind_of(undecided([], events=events)) is VerdictKind.POLICY_VIOLATION
    assert kind_of(undecided([], events=events[:2])) is VerdictKind.INFRASTRUCTURE_ERROR


def test_a_failed_check_is_a_wrong_output() -> None:
    checks = {"outputs_checked": 60, "oracle_checked": 3, "outputs_differing": 0, "failures": ["off by 1"]}
    verdict = decide(undecided(make_pairs(2.0, 12), checks=checks))
    assert verdict.kind is VerdictKind.WRONG_OUTPUT
    assert "off by 1" in verdict.reason


@pytest.mark.parametrize(("outputs", "oracle"), [(6 * CALLS, 3), (1000, 0)])
def test_gains_without_checked_outputs_do_not_count(outputs: int, oracle: int) -> None:
    checks = {"outputs_checked": outputs, "oracle_checked": oracle, "outputs_differing": 0, "failures": []}
    assert kind_of(undecided(make_pairs(1.5, 6), checks=checks)) is VerdictKind.INFRASTRUCTURE_ERROR


@pytest.mark.parametrize("side", ["base", "candidate"])
def test_running_while_frozen_is_suspicious(side: str) -> None:
    pairs = make_pairs(1.5, 6, every=6)
    pairs[3]["cpu_while_frozen_ns"][side] = 20_000_000
    assert kind_of(undecided(pairs)) is VerdictKind.GAIN
    pairs[3]["cpu_while_frozen_ns"][side] += 1
    verdict = decide(undecided(pairs))
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert side in verdict.reason


def test_what_ran_while_frozen_in_a_control_pair_was_base() -> None:
    pairs = make_pairs(1.5, 6)
    control = next(pair for pair in pairs if pair["control"])
    control["cpu_while_frozen_ns"]["candidate"] = 10**9
    assert "The base used CPU time" in decide(undecided(pairs)).reason


def test_slowing_the_partner_is_suspicious() -> None:
    verdict = decide(undecided(make_pairs(1.5, 24, slowdown=1.5)))
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert "than when paired with itself" in verdict.reason
    assert kind_of(undecided(make_pairs(1.5, 30, slowdown=1.5), "confirmation")) is VerdictKind.SUSPICIOUS


def test_few_control_pairs_that_look_bad_ask_for_more_before_anybody_is_suspected() -> None:
    assert decide_so_far(undecided(make_pairs(1.5, 6, slowdown=1.5, every=6))) is None
    assert decide_so_far(undecided(make_pairs(1.5, 12, slowdown=1.5, every=6))) is None
    honest = [*make_pairs(1.5, 6, slowdown=1.5, every=6), *make_pairs(1.5, 18, every=6)]  # one bad moment
    assert kind_of(undecided(renumbered(honest))) is VerdictKind.GAIN


def test_a_gain_waits_for_its_control_pairs() -> None:
    bare = make_pairs(1.5, 6, controls=False)
    assert decide_so_far(undecided(bare)) is None
    control = {**make_pairs(1.0, 1)[0], "index": len(bare), "next_to": len(bare) - 1}
    assert control["control"]
    assert kind_of(undecided([*bare, control])) is VerdictKind.GAIN
    assert kind_of(undecided(bare, "aa")) is VerdictKind.GAIN  # an A/A run is all control
    gate, confirmation = undecided([]), undecided([], "confirmation")
    assert [controls_needed(gate, units) for units in (6, 12, 13, 30)] == [1, 1, 2, 3]
    assert controls_needed(confirmation, 30) == 12
    assert kind_of(undecided(make_pairs(0.8, 6, controls=False))) is VerdictKind.REGRESSION


def test_past_the_cap_a_human_decides() -> None:
    verdict = decide(undecided(make_pairs(60.0, 6)))
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert "cap" in verdict.reason
    assert verdict.log_ppm_estimate == 3_688_880  # capped


def test_cases_combine_by_the_geometric_mean() -> None:
    effects = {"a": 1.0, "b": 1.2}
    verdict = decide(undecided(make_pairs(1.0, 12, cases=("a", "b"), effects=effects)))
    assert verdict.kind is VerdictKind.GAIN
    assert verdict.pairs == 12
    assert verdict.log_ppm_estimate == pytest.approx(math.log(1.2) / 2 * 1e6, abs=5_000)


def test_one_bad_case_spoils_a_gain() -> None:
    effects = {"a": 0.9, "b": 1.5}
    verdict = decide(undecided(make_pairs(1.0, 12, cases=("a", "b"), effects=effects)))
    assert verdict.kind is VerdictKind.NO_GAIN
    assert "case a" in verdict.reason


def test_a_unit_needs_every_case() -> None:
    pairs = [pair for pair in make_pairs(1.5, 6, cases=("a", "b")) if pair["case"] == "a" or pair["control"]]
    document = undecided(pairs)
    assert read_samples(document).unit_count == 0
    assert decide_so_far(document) is None


def test_interrupted_pairs_are_left_out() -> None:
    pairs = make_pairs(1.5, 7)
    pairs[-1]["calls"] = pairs[-1]["calls"][:-3]
    document = undecided(pairs)
    assert read_samples(document).unit_count == 6
    assert turns([["base", 3], ["candidate", 2], ["base", 5]]) == [(3, 2)]


def test_order_within_a_turn_does_not_matter() -> None:
    pairs = make_pairs(1.05, 12)
    swapped = make_pairs(1.05, 12)
    for pair in swapped:
        calls = pair["calls"]
        pair["calls"] = [call for turn in zip(calls[1::2], calls[::2], strict=True) for call in turn]
    assert decide(undecided(swapped)) == decide(undecided(pairs))


def test_a_stated_verdict_is_not_believed() -> None:
    claimed = {**undecided(make_pairs(1.0, 24)), "verdict": {"kind": "gain"}}
    assert kind_of(claimed) is VerdictKind.NO_GAIN


def test_a_document_that_is_none_is_refused() -> None:
    with pytest.raises(EvidenceError, match="pairs is missing"):
        decide({key: value for key, value in undecided([]).items() if key != "pairs"})


def test_every_verdict_reads_as_a_sentence() -> None:
    documents = [
        undecided(make_pairs(effect, 30), kind)
        for effect in (0.8, 1.0, 1.05, 60.0)
        for kind in ("gate", "confirmation")
    ]
    for document in documents:
        reason = decide(document).reason
        assert reason[0].isupper()
        assert reason.endswith(".")
