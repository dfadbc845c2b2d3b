"""Fixes of a bug while the best tree moves, and on dispute."""

import pytest

from bounty.models import Award, AwardState, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_awards
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.bug_world import AWARD, FIX, REST, SHARE, BugWorld, amounts, broken_invariants


@pytest.fixture
def world(db: None) -> BugWorld:
    return BugWorld()


def test_a_booked_fix_follows_the_tip_is_tried_again_and_keeps_its_price(world: BugWorld) -> None:
    world.adopted()
    submission = world.fix()
    world.vested(world.ann, diff_of_line(9, "step_9 = 99"))
    reconcile_runs()
    submission.refresh_from_db()
    assert submission.state == SubmissionState.CONFIRMING
    world.lineage.refresh_from_db()
    assert submission.base_tree_id == world.lineage.tip_id
    run = world.try_out()
    assert (run.kind, run.base_tree_id) == ("fix", world.lineage.tip_id)
    submission = advance_submission(submission_id=submission.pk)
    assert submission.state == SubmissionState.CONFIRMED
    assert amounts(submission) == {"fix": ("unvested", REST), "reproduction": ("unvested", SHARE)}
    assert Award.objects.filter(bug=world.bug, state=AwardState.VOID).count() == 2
    assert world.paid(submission).state == SubmissionState.VESTED
    assert broken_invariants() == []


def test_a_fix_that_no_longer_fixes_on_the_moved_tip_gives_both_lots_back(world: BugWorld) -> None:
    world.adopted()
    submission = world.fix()
    world.vested(world.ann, diff_of_line(9, "step_9 = 99"))
    reconcile_runs()
    world.try_out(base="holds")
    submission = advance_submission(submission_id=submission.pk)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "no_gain")
    assert not standing_awards(submission).exists()
    assert ledger.escrow_balance(world.bug.escrow_reference).available == AWARD


def test_a_waiting_fix_run_is_pointed_at_the_moved_tip(world: BugWorld) -> None:
    world.adopted()
    gain = world.confirmed(world.ann, diff_of_line(9, "step_9 = 99"))
    submission = world.submit(world.bob, FIX, world.bug)
    assert submission.base_tree_id == world.tree.pk  # of the tip, whatever gains are not merged yet
    review(actor=world.ruth, submission_id=gain.pk, decision="accept")
    merge(actor=world.mira, submission_id=gain.pk)
    reconcile_runs()
    world.lineage.refresh_from_db()
    assert submission.runs.get().base_tree_id == world.lineage.tip_id
    world.try_out()
    assert advance_submission(submission_id=submission.pk).state == SubmissionState.CONFIRMED


def test_a_fix_that_waited_while_the_tip_moved_is_tried_again_before_it_is_paid(world: BugWorld) -> None:
    _, second = world.two_fixes()
    world.vested(world.bob, diff_of_line(9, "step_9 = 99"))
    reconcile_runs()
    world.try_out(candidate="refused")  # the first one's second run, on the moved tip
    reconcile_runs()
    reconcile_runs()
    second.refresh_from_db()
    assert second.state == SubmissionState.QUEUED
    run = world.try_out()
    assert run.submission == second
    assert advance_submission(submission_id=second.pk).state == SubmissionState.CONFIRMED


def test_a_disputed_fix_is_tried_again_and_paid(world: BugWorld) -> None:
    world.adopted()
    submission = world.fix(candidate="refused")
    dispute = file_dispute(actor=world.bob, submission_id=submission.pk, text="It passes here.")
    answer_dispute(actor=world.ruth, dispute_id=dispute.pk, answer="remeasure", text="Once more.")
    world.try_out()
    assert advance_submission(submission_id=submission.pk).state == SubmissionState.CONFIRMED
