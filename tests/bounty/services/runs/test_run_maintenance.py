"""Cancelling runs and ordering them again: the runner is told, no one loses an attempt, old verdicts stay."""

from uuid import UUID

import pytest

from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.models import Run, RunKind, RunState, RunVerdict, StateChange, Submission
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.runners.calls import heartbeat
from bounty.services.runners.maintenance import calibrate
from bounty.services.runs.maintenance import cancel_run, rerun
from bounty.services.submissions import attempts_used, submit, withdraw
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


def cancel(world: World, run: Run, reason: str = "the wrong tree") -> Run:
    return cancel_run(actor=world.mira, run_id=run.pk, reason=reason)


def again(world: World, run: Run, reason: str = "the fan had stopped") -> Run:
    return rerun(actor=world.mira, run_id=run.pk, reason=reason)


def beat(run: Run, lease: UUID) -> bool:
    assert run.runner is not None
    return heartbeat(
        runner=run.runner, run_id=run.pk, lease=lease, stage="gating", pairs_done=2, pairs_max=48
    ).cancel


def test_a_waiting_run_that_is_cancelled_ends_and_costs_its_author_no_attempt(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = cancel(world, submission.runs.get())
    assert (run.state, run.verdict.kind) == (RunState.FINISHED, "infrastructure_error")
    assert "the wrong tree" in run.verdict.reason
    submission = advance_submission(submission_id=submission.pk)
    assert (submission.state, submission.verdict_kind) == ("judged", "infrastructure_error")
    assert attempts_used(bounty=world.bounty, person=world.ann) == 0
    change = StateChange.objects.filter(subject="run", new="lost").get()
    assert change.actor == world.mira


def test_a_running_run_that_is_cancelled_is_stopped_at_its_next_heartbeat(world: World) -> None:
    world.submit(world.ann, DIFF)
    run = world.lease()
    lease = run.lease
    assert lease is not None and beat(run, lease) is False
    cancel(world, run)
    assert beat(run, lease) is True
    assert cancel(world, run).state == RunState.FINISHED  # once more changes nothing
    assert RunVerdict.objects.count() == 1


def test_a_cancelled_confirmation_gives_the_reservation_back(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    submission = world.gate(submission, 0.3)
    assert standing_award(submission) is not None
    cancel(world, submission.runs.get(kind=RunKind.CONFIRMATION))
    submission = advance_submission(submission_id=submission.pk)
    assert submission.state == "judged" and standing_award(submission) is None
    assert ledger.escrow_balance(world.bounty.escrow_reference).available == world.escrow


def test_a_cancelled_aa_run_ends_without_a_verdict(world: World) -> None:
    calibrate(actor=world.mira, name=world.runner.name)
    run = cancel(world, Run.objects.get())
    assert run.state == RunState.LOST and run.finished_at is not None
    assert not RunVerdict.objects.exists()


def test_no_one_cancels_a_run_of_their_own_submission(world: World) -> None:
    submission = submit(actor=world.mira, bounty_id=world.bounty.pk, diff=DIFF)
    run = submission.runs.get()
    with pytest.raises(NotAllowed, match="Withdraw"):
        cancel(world, run)
    with pytest.raises(NotAllowed):
        cancel_run(actor=world.ann, run_id=run.pk, reason="x")
    with pytest.raises(BadRequest):
        cancel_run(actor=world.ruth, run_id=run.pk, reason=" ")
    assert cancel_run(actor=world.ruth, run_id=run.pk, reason="x").state == RunState.FINISHED


def test_a_doubted_verdict_is_measured_again_and_stays_on_record(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    submission = world.gate(submission, 0.0)
    old = submission.runs.get()
    new = again(world, old)
    assert (new.kind, new.sequence, new.state) == (RunKind.GATE, 2, RunState.QUEUED)
    assert RunVerdict.objects.get(run=old).kind == "no_gain"
    submission.refresh_from_db()
    assert (submission.state, submission.verdict_kind) == ("queued", "")
    reason = StateChange.objects.filter(subject="submission", new="queued").latest("pk").reason
    assert "the fan had stopped" in reason and str(old.pk) in reason
    submission = world.price(world.gate(submission, 0.3), 0.3)
    assert submission.state == "confirmed"


def test_an_aa_run_is_ordered_again_for_the_same_runner(world: World) -> None:
    calibrate(actor=world.mira, name=world.runner.name)
    old = world.judge(0.0, units=12)
    new = again(world, old)
    assert (new.bound_to_id, new.base_tree_id, new.state) == (
        world.runner.pk,
        old.base_tree_id,
        RunState.QUEUED,
    )
    with pytest.raises(WrongState, match="already waits for the runner"):
        again(world, old)


@pytest.mark.parametrize("how_far", ["queued", "confirming", "confirmed", "withdrawn"])
def test_only_what_rests_on_the_verdict_is_judged_from_the_gate_on(world: World, how_far: str) -> None:
    submission: Submission = world.submit(world.ann, DIFF)
    gate = submission.runs.get()
    if how_far in ("confirming", "confirmed"):
        world.judge(0.3)
        submission = advance_submission(submission_id=submission.pk)
    if how_far == "confirmed":
        submission = world.price(submission, 0.3)
    if how_far == "withdrawn":
        withdraw(actor=world.ann, submission_id=submission.pk)
    with pytest.raises(WrongState):
        again(world, gate)
    assert submission.runs.filter(kind=RunKind.GATE).count() == 1
