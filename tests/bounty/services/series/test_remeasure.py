"""Open gains after the best tree moved: applied again, priced again, or returned to their authors."""

import pytest

from bounty.errors import NotAllowed, TipMoved, WrongState
from bounty.models import Award, AwardState, Lineage, RunKind, RunState, Submission, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import reverse, standing_award
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.series.best import is_left_behind, measured_base
from bounty.services.series.remeasure import follow_best, remeasure
from bounty.services.submissions import attempts_used, find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")
OTHER = diff_of_line(7, "step_7 = 77")


def amount_of(submission: Submission) -> int:
    award = standing_award(submission)
    assert award is not None and award.amount_microcredits is not None
    return award.amount_microcredits


def accept(world: World, submission: Submission) -> Submission:
    return review(actor=world.ruth, submission_id=submission.pk, decision="accept")


def elsewhere(world: World, diff: str, speed_up_log: float = 0.2) -> Submission:
    """Bob's confirmed gain of another series of the same lineage. The runner stays with that series."""
    other = world.open(title="Elsewhere", hardware="other")
    submission = world.submit(world.bob, diff, other)
    world.runner.hardware = "other"
    world.runner.save()
    world.gate(submission, speed_up_log)
    submission = world.price(submission, speed_up_log)
    assert submission.state == SubmissionState.CONFIRMED
    return submission


def merged_past(world: World, diff: str = OTHER) -> tuple[Submission, Submission]:
    """Ann's gain is merged while Bob's in another series was accepted against the tip before."""
    first = world.confirmed(world.ann, DIFF)
    second = elsewhere(world, diff)
    accept(world, first)
    second = accept(world, second)
    return merge(actor=world.mira, submission_id=first.pk), second


def in_order() -> bool:
    return [invariant.name for invariant in audit() if not invariant.holds] == []


def test_a_merge_prices_an_open_gain_again_against_the_new_tip(world: World) -> None:
    first, second = merged_past(world)
    old = standing_award(second)
    assert old is not None and old.amount_microcredits is not None
    with pytest.raises(TipMoved, match="measured again"):
        merge(actor=world.mira, submission_id=second.pk)

    second = advance_submission(submission_id=second.pk)
    assert (second.state, second.base_tree_id) == (SubmissionState.CONFIRMING, first.candidate_tree_id)
    run = second.runs.get(kind=RunKind.RECHECK)
    assert (run.base_tree_id, run.candidate_tree_id) == (first.candidate_tree_id, second.candidate_tree_id)
    assert run.judged_as == "confirmation"
    assert ledger.balance(world.bob).unvested == old.amount_microcredits  # until the new price is there

    second = world.price(second, 0.1)
    award = standing_award(second)
    assert second.state == SubmissionState.CONFIRMED  # Ruth's acceptance was for the old candidate
    assert award is not None and award.confirmation_run == run
    assert 0 < amount_of(second) < old.amount_microcredits
    assert award.series_at == old.series_at
    assert ledger.balance(world.bob).unvested == award.amount_microcredits
    assert Award.objects.get(pk=old.pk).state == AwardState.VOID
    accept(world, second)
    second = merge(actor=world.mira, submission_id=second.pk)
    assert second.state == SubmissionState.VESTED
    assert Lineage.objects.get(pk=world.lineage.pk).tip_id == run.candidate_tree_id
    assert ledger.balance(world.bob).available == award.amount_microcredits
    assert in_order()


def test_a_new_price_is_never_above_what_was_reserved(world: World) -> None:
    _, second = merged_past(world)
    old = standing_award(second)
    assert old is not None
    second = advance_submission(submission_id=second.pk)
    second = world.price(second, 2.0)
    assert amount_of(second) == old.reserved_microcredits > (old.amount_microcredits or 0)
    award = standing_award(second)
    assert award is not None and not award.is_partial
    assert in_order()


def test_a_gain_that_is_gone_on_the_new_tip_gives_its_award_back(world: World) -> None:
    _, second = merged_past(world)
    second = world.gate(advance_submission(submission_id=second.pk), 0.0)
    assert (second.state, second.verdict_kind) == (SubmissionState.JUDGED, "no_gain")
    assert standing_award(second) is None
    assert ledger.balance(world.bob).unvested == 0
    assert ledger.escrow_balance(second.bounty.escrow_reference).available == world.escrow
    assert in_order()


def test_what_no_longer_applies_goes_back_to_its_author(world: World) -> None:
    first, second = merged_past(world, diff_of_line(3, "step_3 = 'mine'"))
    second = advance_submission(submission_id=second.pk)
    assert (second.state, second.verdict_kind) == (SubmissionState.JUDGED, "patch_rejected")
    assert (
        str(first.candidate_tree_id) in second.verdict_reason and "submit it again" in second.verdict_reason
    )
    assert second.awards.get().state == AwardState.VOID
    assert ledger.escrow_balance(second.bounty.escrow_reference).available == world.escrow
    assert attempts_used(bounty=second.bounty, person=world.bob) == 0
    again = diff_of_line(3, "step_3 = 'mine'", old="step_3 = 33")
    assert world.submit(world.bob, again, second.bounty).state == SubmissionState.QUEUED
    assert in_order()


def test_beat_finds_what_was_left_behind(world: World) -> None:
    _, second = merged_past(world)
    reconcile_runs()
    assert find_submission(second.pk).state == SubmissionState.CONFIRMING
    assert reconcile_runs().advanced == 0


def test_a_queued_gate_follows_in_its_place(world: World) -> None:
    first = world.confirmed(world.ann, DIFF)
    other = world.open(title="Elsewhere", hardware="other")
    second = world.submit(world.bob, OTHER, other)
    gate = second.runs.get()
    accept(world, first)
    merge(actor=world.mira, submission_id=first.pk)
    second = advance_submission(submission_id=second.pk)
    moved = second.runs.get()
    assert (second.state, moved.pk, moved.queued_at) == ("queued", gate.pk, gate.queued_at)
    assert moved.base_tree_id == second.base_tree_id == first.candidate_tree_id
    assert moved.candidate_tree_id == second.candidate_tree_id != gate.candidate_tree_id


def test_a_queued_gate_that_does_not_apply_any_more_is_no_attempt(world: World) -> None:
    first = world.confirmed(world.ann, DIFF)
    other = world.open(title="Elsewhere", hardware="other")
    second = world.submit(world.bob, diff_of_line(3, "step_3 = 'mine'"), other)
    accept(world, first)
    merge(actor=world.mira, submission_id=first.pk)
    second = advance_submission(submission_id=second.pk)
    assert (second.state, second.verdict_kind) == ("judged", "patch_rejected")
    assert second.runs.get().state == RunState.LOST
    assert attempts_used(bounty=other, person=world.bob) == 0


def test_a_gate_that_was_measured_meanwhile_continues_with_the_new_candidate(world: World) -> None:
    first = accept(world, world.confirmed(world.ann, DIFF))
    other = world.open(title="Elsewhere", hardware="other")
    second = world.submit(world.bob, OTHER, other)
    world.runner.hardware = "other"
    world.runner.save()
    world.judge(0.2)
    merge(actor=world.mira, submission_id=first.pk)
    second = advance_submission(submission_id=second.pk)
    assert (second.state, second.base_tree_id) == ("confirming", first.candidate_tree_id)
    run = second.runs.get(kind=RunKind.CONFIRMATION)
    assert (run.base_tree_id, run.candidate_tree_id) == (first.candidate_tree_id, second.candidate_tree_id)


def test_a_confirmation_of_the_old_candidate_is_measured_again_not_refused(world: World) -> None:
    first = accept(world, world.confirmed(world.ann, DIFF))
    other = world.open(title="Elsewhere", hardware="other")
    second = world.submit(world.bob, OTHER, other)
    world.runner.hardware = "other"
    world.runner.save()
    world.gate(second, 0.2)
    run = world.lease()
    merge(actor=world.mira, submission_id=first.pk)
    assert follow_best(submission_id=second.pk) is False  # its run is being measured
    assert world.lease().pk == run.pk  # the runner was restarted and has it again
    world.judge(0.0)
    second = advance_submission(submission_id=second.pk)
    assert second.state == SubmissionState.CONFIRMING
    newest = second.runs.filter(kind=RunKind.CONFIRMATION).order_by("-sequence").first()
    assert newest is not None and newest.sequence == 2
    assert newest.candidate_tree_id == second.candidate_tree_id != run.candidate_tree_id
    assert world.price(second, 0.2).state == SubmissionState.CONFIRMED


def test_a_later_award_is_no_measure_for_an_earlier_one(world: World) -> None:
    first = world.confirmed(world.ann, DIFF)
    second = world.confirmed(world.bob, diff_of_line(5, "step_5 = 55"))
    assert second.base_tree_id == first.candidate_tree_id
    assert measured_base(bounty=world.bounty).pk == second.candidate_tree_id
    assert measured_base(bounty=world.bounty, of=second).pk == first.candidate_tree_id
    assert measured_base(bounty=world.bounty, of=first).pk == world.tree.pk
    assert not is_left_behind(first) and not is_left_behind(second)


def test_what_was_built_on_a_declined_gain_follows_the_tip(world: World) -> None:
    first = world.confirmed(world.ann, DIFF)
    second = world.confirmed(world.bob, diff_of_line(5, "step_5 = 55"))
    review(actor=world.ruth, submission_id=first.pk, decision="decline", comment="unreadable")
    second = advance_submission(submission_id=second.pk)
    assert (second.state, second.base_tree_id) == (SubmissionState.CONFIRMING, world.tree.pk)
    second = world.price(second, 0.25)
    accept(world, second)
    assert merge(actor=world.mira, submission_id=second.pk).state == SubmissionState.VESTED
    assert in_order()


def test_a_stack_of_gains_follows_one_after_the_other(world: World) -> None:
    """Bob builds on Ann's unmerged gain; a merge in another series moves both, Ann's first."""
    lower = world.confirmed(world.ann, DIFF)
    upper = world.confirmed(world.bob, diff_of_line(5, "step_5 = 55"))
    third = accept(world, elsewhere(world, OTHER))
    world.runner.hardware = "cpu"
    world.runner.save()
    third = merge(actor=world.mira, submission_id=third.pk)
    assert advance_submission(submission_id=upper.pk).state == SubmissionState.CONFIRMED  # still upon Ann's
    lower = world.price(advance_submission(submission_id=lower.pk), 0.3)
    assert (lower.state, lower.base_tree_id) == ("confirmed", third.candidate_tree_id)
    upper = advance_submission(submission_id=upper.pk)
    assert (upper.state, upper.base_tree_id) == ("confirming", lower.candidate_tree_id)
    upper = world.price(upper, 0.3)
    for submission in (lower, upper):
        accept(world, submission)
        assert merge(actor=world.mira, submission_id=submission.pk).state == SubmissionState.VESTED
    assert Lineage.objects.get(pk=world.lineage.pk).tip_id == find_submission(upper.pk).candidate_tree_id
    assert in_order()


def test_a_reversed_merge_takes_the_tip_back_and_others_follow(world: World) -> None:
    first, second = merged_past(world)
    second = world.price(advance_submission(submission_id=second.pk), 0.2)
    reverse(actor=world.mira, submission=find_submission(first.pk), reason="it cached the answers")
    second = advance_submission(submission_id=second.pk)
    assert (second.state, second.base_tree_id) == (SubmissionState.CONFIRMING, world.tree.pk)
    assert in_order()


def test_the_manual_order_does_the_same_at_once(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    with pytest.raises(NotAllowed):
        remeasure(actor=world.bob, submission_id=submission.pk)
    with pytest.raises(WrongState, match="merge it"):
        remeasure(actor=world.ann, submission_id=submission.pk)
    accept(world, submission)
    second = elsewhere(world, OTHER)
    merge(actor=world.mira, submission_id=submission.pk)
    assert remeasure(actor=world.bob, submission_id=second.pk).state == SubmissionState.CONFIRMING
    with pytest.raises(WrongState, match="confirming"):
        remeasure(actor=world.bob, submission_id=second.pk)
