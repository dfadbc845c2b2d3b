"""Confirmations that a person had before against one base count in the bound of the next one."""

from typing import Any

import pytest

from benchmarks.evidence.pair_record import pair_record, seal_pair
from benchmarks.evidence.signing import generate_key
from bounty.errors import EvidenceRefused
from bounty.models import QuarantineCause, Run, Runner, Submission
from bounty.services.runs.earlier import earlier_confirmations
from bounty.services.runs.lifecycle import lose_run
from bounty.services.runs.maintenance import cancel_run
from bounty.services.runs.pooling import post_pair
from bounty.services.submissions import find_submission
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line, job_of
from tests.bounty.synthetic import CALLS_PER_SIDE, invented_evidence, invented_pairs, invented_parts

FIRST, SECOND, THIRD = (diff_of_line(line, f"step_{line} = {line}{line}") for line in (3, 5, 7))
NOISE = 0.02
CRASH = [{"kind": "crash", "side": "candidate", "stage": "call", "detail": "it ended itself", "pair": 12}]


def post_pairs(world: World, run: Run, speed_up_log: float, units: int) -> None:
    """Post so many pairs of the leased run, as its runner does before it ends."""
    assert run.lease is not None and run.runner is not None
    parts = invented_parts(run=job_of(run))
    checks = {"outputs_checked": CALLS_PER_SIDE, "oracle_checked": 1}
    key = world.keys.get(run.runner.key_id, world.key)
    for pair in invented_pairs(speed_up_log, units=units, seed=7):
        sealed = seal_pair(pair_record(parts, pair, checks), key)
        post_pair(runner=run.runner, run_id=run.pk, lease=run.lease, sealed=sealed)


def confirming(world: World, who: User, diff: str) -> tuple[Submission, Run]:
    """A submission whose gate has passed, and its leased confirmation."""
    submission = world.gate(world.submit(who, diff), 0.3)
    run = world.lease()
    assert run.kind == "confirmation" and run.submission_id == submission.pk
    world.commit(run)
    return submission, run


def ended_by_itself(world: World, who: User, diff: str, pairs: int = 12) -> Submission:
    """A submission whose confirmation the candidate ended after so many pairs."""
    submission, run = confirming(world, who, diff)
    post_pairs(world, run, 0.3, pairs)
    world.finish(run, 0.3, events=CRASH, units=max(pairs, 1))
    world.advance(submission)
    assert find_submission(submission.pk).verdict_kind == "wrong_output"
    return submission


def evidence(world: World, run: Run, **how: Any) -> dict[str, Any]:
    return invented_evidence(
        key=world.key, run={**job_of(run), **how}, speed_up_log=0.1, noise_log=NOISE, units=30
    )


def test_a_run_that_ended_itself_lowers_the_next_bound_of_its_author(world: World) -> None:
    """The attack: end the confirmation when it goes badly, and draw again in another form."""
    ended_by_itself(world, world.ann, FIRST)
    _, run = confirming(world, world.ann, SECOND)
    assert run.earlier_confirmations == {"count": 1, "lowest_log_ppm": None}
    with pytest.raises(EvidenceRefused, match="earlier confirmations"):
        world.record(run, evidence(world, run, earlier_confirmations=None))
    again = world.lease()
    assert again.pk == run.pk
    world.commit(again)
    usual = evidence(world, again, earlier_confirmations=None)["document"]["verdict"]["log_ppm_bound"]
    verdict = world.record(again, evidence(world, again))
    assert 0 < verdict.log_ppm_bound < usual - 5_000


def test_every_ended_one_counts_and_none_of_other_people_does(world: World) -> None:
    ended_by_itself(world, world.ann, FIRST)
    ended_by_itself(world, world.ann, SECOND)
    _, of_bob = confirming(world, world.bob, diff_of_line(9, "step_9 = 99"))
    assert of_bob.earlier_confirmations is None
    world.finish(of_bob, -0.3)  # not confirmed
    world.advance(find_submission(of_bob.submission_id))
    _, run = confirming(world, world.ann, THIRD)
    assert run.earlier_confirmations == {"count": 2, "lowest_log_ppm": None}
    for changed in ({"suite": "decode"}, {"hardware": "gpu"}, {"base_tree": run.candidate_tree}):
        other = Run.objects.get(pk=run.pk)
        for name, value in changed.items():
            setattr(other, name, value)
        assert earlier_confirmations(other) is None, changed


def test_one_that_ended_before_its_first_pair_does_not_count(world: World) -> None:
    ended_by_itself(world, world.ann, FIRST, pairs=0)
    _, run = confirming(world, world.ann, SECOND)
    assert run.earlier_confirmations is None


def test_gates_do_not_count(world: World) -> None:
    """An honest person may try many patches: only who was confirmed, or nearly, is bounded more strictly."""
    submission = world.submit(world.ann, FIRST)
    gate = world.lease()
    world.commit(gate)
    post_pairs(world, gate, 0.0, 12)
    world.finish(gate, 0.0)
    world.advance(submission)
    _, run = confirming(world, world.ann, SECOND)
    assert run.earlier_confirmations is None


def test_a_gain_that_failed_a_rail_caps_the_mended_one(world: World) -> None:
    submission, run = confirming(world, world.ann, FIRST)
    post_pairs(world, run, 0.3, 12)
    world.record(run, evidence(world, run))
    world.advance(submission)
    bound = Run.objects.get(pk=run.pk).verdict.log_ppm_bound
    world.guard(submission, -0.5)
    assert find_submission(submission.pk).verdict_kind == "regression"
    _, mended = confirming(world, world.ann, SECOND)
    assert bound and mended.earlier_confirmations == {"count": 1, "lowest_log_ppm": bound}


def test_the_platform_s_failures_and_untrusted_pairs_do_not_count(world: World) -> None:
    submission, run = confirming(world, world.ann, FIRST)
    post_pairs(world, run, 0.3, 12)
    cancel_run(actor=world.mira, run_id=run.pk, reason="the disk is full")
    world.advance(submission)
    assert find_submission(submission.pk).verdict_kind == "infrastructure_error"
    _, next_run = confirming(world, world.ann, SECOND)
    assert next_run.earlier_confirmations is None
    post_pairs(world, next_run, 0.3, 12)
    world.finish(next_run, 0.3, events=CRASH, units=12)
    world.advance(find_submission(next_run.submission_id))
    _, third = confirming(world, world.ann, THIRD)
    assert third.earlier_confirmations == {"count": 1, "lowest_log_ppm": None}
    Runner.objects.filter(pk=world.runner.pk).update(
        quarantine_cause=QuarantineCause.DRIFT, state="quarantined"
    )
    assert earlier_confirmations(third) is None


def test_the_same_candidate_is_pooled_and_not_counted(world: World) -> None:
    _, run = confirming(world, world.ann, FIRST)
    post_pairs(world, run, 0.3, 10)
    lose_run(run=run, reason="its runner disappeared")
    again = world.lease()
    assert again.pk == run.pk and len(again.continues) > 0
    assert again.earlier_confirmations is None


def test_one_that_began_later_does_not_count_when_a_lost_runner_is_replaced(world: World) -> None:
    first, second = world.submit(world.ann, FIRST), world.submit(world.ann, SECOND)
    world.gate_all(0.3, first, second)
    one, two = (world.lease(world.add_runner(generate_key())[0]) for _ in range(2))
    for run in (one, two):
        world.commit(run)
        post_pairs(world, run, 0.3, 4)
    lose_run(run=one, reason="its runner disappeared")
    again = world.lease()
    assert again.pk == one.pk and again.continues
    assert again.earlier_confirmations is None
    assert two.earlier_confirmations == {"count": 1, "lowest_log_ppm": None}


def test_of_two_at_once_the_later_lease_counts_the_other(world: World) -> None:
    first, second = world.submit(world.ann, FIRST), world.submit(world.ann, SECOND)
    world.gate_all(0.3, first, second)
    one = world.lease(world.add_runner(generate_key())[0])
    two = world.lease(world.add_runner(generate_key())[0])
    assert (one.kind, two.kind) == ("confirmation", "confirmation")
    assert (one.earlier_confirmations, two.earlier_confirmations) == (
        None,
        {"count": 1, "lowest_log_ppm": None},
    )
