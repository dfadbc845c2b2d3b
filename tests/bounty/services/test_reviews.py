"""Reviews, merges, repeated judging and reversals: permissions, states, and balances."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.models import AwardState, Lineage, Run, RunKind, Submission, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import reverse, standing_award
from bounty.services.bounties import close_bounty
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import rejudge, review
from bounty.services.series.best import measured_base
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line, job_of, make_user
from tests.bounty.synthetic import invented_evidence

DIFF = diff_of_line(3, "step_3 = 33")


def amount_of(submission: Submission) -> int:
    award = standing_award(submission)
    assert award is not None and award.amount_microcredits is not None
    return award.amount_microcredits


def test_no_one_reviews_their_own(world: World) -> None:
    submission = world.confirmed(world.mira, DIFF)
    with pytest.raises(NotAllowed, match="own"):
        review(actor=world.mira, submission_id=submission.pk, decision="accept")
    assert review(actor=world.ruth, submission_id=submission.pk, decision="accept").state == "accepted"


def test_a_contributor_does_not_review_or_merge(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    with pytest.raises(NotAllowed):
        review(actor=world.bob, submission_id=submission.pk, decision="accept")
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    with pytest.raises(NotAllowed):
        merge(actor=world.ann, submission_id=submission.pk)


def test_only_a_confirmed_gain_is_accepted_and_only_an_accepted_one_merged(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    with pytest.raises(WrongState):
        review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    world.gate(submission, 0.3)
    world.gate(submission, 0.3)
    with pytest.raises(WrongState):
        merge(actor=world.mira, submission_id=submission.pk)
    with pytest.raises(BadRequest):
        review(actor=world.ruth, submission_id=submission.pk, decision="maybe")


def test_a_large_award_needs_two_reviewers(db: None) -> None:
    world = World(terms={"two_reviews_above_microcredits": 1_000_000})
    submission = world.confirmed(world.ann, DIFF)
    for _ in range(2):  # the same person twice is one reviewer
        submission = review(actor=world.ruth, submission_id=submission.pk, decision="accept")
        assert submission.state == SubmissionState.CONFIRMED
    assert review(actor=world.mira, submission_id=submission.pk, decision="accept").state == "accepted"


def test_a_decline_gives_the_award_and_the_best_tree_back(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    assert measured_base(bounty=world.bounty).pk == submission.candidate_tree_id
    submission = review(
        actor=world.ruth, submission_id=submission.pk, decision="decline", comment="unreadable"
    )
    assert submission.state == SubmissionState.DECLINED
    assert measured_base(bounty=world.bounty).pk == world.tree.pk
    assert ledger.balance(world.ann).unvested == 0
    assert ledger.escrow_balance(world.bounty.escrow_reference).available == world.escrow
    assert submission.awards.get().state == AwardState.VOID
    with pytest.raises(WrongState):
        review(actor=world.mira, submission_id=submission.pk, decision="accept")


def test_a_reviewer_does_not_decide_both_ways(world: World) -> None:
    world.bounty.min_reviewers = 2
    world.bounty.save()
    submission = world.confirmed(world.ann, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    with pytest.raises(WrongState):
        review(actor=world.ruth, submission_id=submission.pk, decision="decline")


def test_an_unreviewed_award_vests_after_the_window_where_the_bounty_says_so(db: None) -> None:
    world = World(terms={"review_window_s": 3600})
    submission = world.confirmed(world.ann, DIFF)
    reconcile_runs()
    assert find_submission(submission.pk).state == SubmissionState.CONFIRMED
    Submission.objects.filter(pk=submission.pk).update(confirmed_at=timezone.now() - timedelta(hours=2))
    reconcile_runs()
    submission = find_submission(submission.pk)
    assert submission.state == SubmissionState.VESTED
    assert ledger.balance(world.ann).available == amount_of(submission)
    # It is merged later, as measured, and nothing is paid a second time.
    merge(actor=world.mira, submission_id=submission.pk)
    assert Lineage.objects.get(pk=world.lineage.pk).tip_id == submission.candidate_tree_id
    assert ledger.balance(world.ann).available == amount_of(submission)


def test_without_a_window_an_award_waits_for_a_review(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    Submission.objects.filter(pk=submission.pk).update(confirmed_at=timezone.now() - timedelta(days=900))
    reconcile_runs()
    assert find_submission(submission.pk).state == SubmissionState.CONFIRMED


def test_a_reversal_takes_the_award_back_and_undoes_the_merge(world: World) -> None:
    submission = world.vested(world.ann, DIFF)
    earned = amount_of(submission)
    submission = reverse(actor=world.mira, submission=submission, reason="it cached the answers")
    assert submission.state == SubmissionState.REVERSED
    assert ledger.balance(world.ann).available == 0 == ledger.balance(world.ann).owed
    assert ledger.escrow_balance(world.bounty.escrow_reference).available == world.escrow
    assert Lineage.objects.get(pk=world.lineage.pk).tip_id == world.tree.pk
    assert measured_base(bounty=world.bounty).pk == world.tree.pk
    reverse(actor=world.mira, submission=find_submission(submission.pk), reason="again")
    assert ledger.escrow_balance(world.bounty.escrow_reference).available == world.escrow > earned
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_who_may_reverse(world: World) -> None:
    submission = world.vested(world.mira, DIFF)
    for person in (world.bob, world.mira):
        with pytest.raises(NotAllowed):
            reverse(actor=person, submission=submission, reason="because")
    with pytest.raises(BadRequest):
        reverse(actor=world.ruth, submission=submission, reason="  ")


def test_an_unvested_award_is_declined_not_reversed(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    with pytest.raises(WrongState):
        reverse(actor=world.mira, submission=submission, reason="because")


def test_a_suspicious_verdict_is_judged_again_or_declined_by_another_person(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    event = [{"kind": "suspicious", "detail": "past the roofline", "side": "candidate"}]
    submission = world.gate(submission, 0.3, events=event)
    assert submission.verdict_kind == "suspicious"
    with pytest.raises(WrongState):
        review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    with pytest.raises(NotAllowed):
        rejudge(actor=world.ann, submission_id=submission.pk)
    submission = rejudge(actor=world.mira, submission_id=submission.pk)
    assert (submission.state, submission.runs.count()) == ("queued", 2)
    submission = world.gate(submission, 0.3, events=event)
    submission = review(actor=world.ruth, submission_id=submission.pk, decision="decline")
    assert submission.state == SubmissionState.DECLINED


def test_an_ordinary_verdict_is_not_judged_again(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.0)
    with pytest.raises(WrongState):
        rejudge(actor=world.mira, submission_id=submission.pk)


def test_a_closed_bounty_still_pays_what_it_was_judging(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    close_bounty(bounty_id=world.bounty.pk, reason="enough", actor=world.mira)
    world.gate(submission, 0.3)
    submission = world.price(submission, 0.3)
    assert submission.state == SubmissionState.CONFIRMED
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    merge(actor=world.mira, submission_id=submission.pk)
    before = ledger.totals().treasury
    reconcile_runs()
    world.bounty.refresh_from_db()
    assert world.bounty.escrow_returned_at is not None
    assert ledger.totals().treasury == before + world.escrow - amount_of(submission)


def test_a_gain_that_finds_no_escrow_waits_for_it_in_sealed_order(db: None) -> None:
    world = World(escrow=5_000_000)
    carol = make_user("carol")
    first, second, third = (
        world.submit(who, diff_of_line(line, f"step_{line} = 0"))
        for who, line in ((world.ann, 3), (world.bob, 4), (carol, 5))
    )
    first, second, third = world.gate_all(0.3, first, second, third)
    assert [(s.state, s.next_step) for s in (second, third)] == [("judged", "await_escrow")] * 2
    assert second.has_verdict
    world.gate(first, 0.0)  # not confirmed: the reservation comes back
    reconcile_runs()
    assert find_submission(second.pk).state == SubmissionState.CONFIRMING
    assert find_submission(third.pk).state == SubmissionState.JUDGED


def test_two_confirmations_against_one_base_pay_one_gain_once(world: World) -> None:
    first = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    second = world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    first, second = world.gate_all(0.3, first, second)
    other_key = generate_key()
    runner_two, _ = world.add_runner(other_key)
    run_one, run_two = world.lease(), world.lease(runner_two)
    assert run_one.base_tree_id == run_two.base_tree_id == world.tree.pk
    _post(world, run_one, world.key, 0.3)
    _post(world, run_two, other_key, 0.3)
    first = advance_submission(submission_id=first.pk)
    second = advance_submission(submission_id=second.pk)
    guard_one, guard_two = world.lease(), world.lease(runner_two)
    assert (guard_one.submission_id, guard_two.submission_id) == (first.pk, second.pk)
    _post(world, guard_one, world.key, 0.0)
    _post(world, guard_two, other_key, 0.0)
    first = advance_submission(submission_id=first.pk)
    second = advance_submission(submission_id=second.pk)
    assert first.state == SubmissionState.CONFIRMED
    assert second.state == SubmissionState.CONFIRMING  # to be timed against the first one's tree
    again = world.lease()
    assert (again.kind, again.submission_id) == (RunKind.CONFIRMATION, second.pk)
    assert again.base_tree_id == first.candidate_tree_id
    _post(world, again, world.key, 0.0)
    second = advance_submission(submission_id=second.pk)
    assert (second.state, second.verdict_kind) == ("judged", "no_gain")
    assert ledger.balance(world.bob).unvested == 0


def _post(world: World, run: Run, key: Ed25519PrivateKey, speed_up_log: float) -> None:
    world.commit(run)
    world.record(run, invented_evidence(key=key, run=job_of(run), speed_up_log=speed_up_log))
