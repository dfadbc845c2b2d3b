"""Disputes: permissions, effects of the answers, and the permanent record."""

from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, transaction
from django.utils import timezone
from pytest_django import Settings

from benchmarks.evidence.signing import generate_key
from bounty.errors import (
    AlreadyDisputed,
    AlreadyJudged,
    BadRequest,
    NotAllowed,
    NotFound,
    NotLeasable,
    TooManyDisputes,
    WrongState,
)
from bounty.limits import MAX_DISPUTES
from bounty.models import Dispute, DisputeState, RunKind, Runner, Submission, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.disputes import answer_dispute, file_dispute, find_dispute, may_dispute
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.submissions import attempts_used, find_submission, withdraw
from bounty.services.transitions import history
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")
DOUBT = [{"kind": "suspicious", "detail": "past the roofline", "side": "candidate"}]


def refused(world: World) -> Submission:
    return world.gate(world.submit(world.ann, DIFF), 0.0)


def dispute(world: World, submission: Submission, text: str = "My own runs show 5 %.") -> Dispute:
    return file_dispute(actor=world.ann, submission_id=submission.pk, text=text)


def answer(world: World, what: Dispute, how: str, text: str = "Looked at the samples.") -> Dispute:
    return answer_dispute(actor=world.mira, dispute_id=what.pk, answer=how, text=text)


def test_an_author_disputes_a_verdict_and_a_maintainer_upholds_it(world: World) -> None:
    submission = refused(world)
    made = dispute(world, submission)
    assert (made.state, made.verdict_kind, made.run) == (DisputeState.OPEN, "no_gain", submission.verdict_run)
    done = answer(world, made, "uphold")
    assert (done.state, done.answer, done.answered_by) == ("upheld", "Looked at the samples.", world.mira)
    assert find_submission(submission.pk).state == SubmissionState.JUDGED
    assert [(change.old, change.new, change.actor) for change in history(done)] == [
        ("", "open", world.ann),
        ("open", "upheld", world.mira),
    ]


def test_who_may_dispute_and_who_may_answer(world: World) -> None:
    own = world.gate(world.submit(world.mira, DIFF), 0.0)
    for other in (world.bob, world.ruth):
        with pytest.raises(NotAllowed, match="author"):
            file_dispute(actor=other, submission_id=own.pk, text="mine")
    made = file_dispute(actor=world.mira, submission_id=own.pk, text="I disagree.")
    with pytest.raises(NotAllowed, match="own"):
        answer(world, made, "overturn")
    with pytest.raises(NotAllowed, match="maintainer"):
        answer_dispute(actor=world.bob, dispute_id=made.pk, answer="overturn", text="because")
    assert answer_dispute(actor=world.ruth, dispute_id=made.pk, answer="uphold", text="No.").state == "upheld"


def test_a_dispute_and_its_answer_need_words(world: World) -> None:
    submission = refused(world)
    with pytest.raises(BadRequest):
        dispute(world, submission, "  \n")
    with pytest.raises(BadRequest):
        dispute(world, submission, "x" * 10_001)
    made = dispute(world, submission)
    with pytest.raises(BadRequest):
        answer(world, made, "uphold", " ")
    with pytest.raises(BadRequest, match="uphold"):
        answer(world, made, "maybe")
    with pytest.raises(NotFound):
        answer_dispute(actor=world.mira, dispute_id=uuid4(), answer="uphold", text="What?")


def test_only_a_current_verdict_is_disputed(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    with pytest.raises(WrongState):
        dispute(world, submission)  # queued
    submission = world.gate(submission, 0.3)
    with pytest.raises(WrongState):
        dispute(world, submission)  # a passed gate is no verdict yet
    submission = world.price(submission, 0.3)
    assert may_dispute(submission)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    submission = merge(actor=world.mira, submission_id=submission.pk)
    assert not may_dispute(submission)
    with pytest.raises(WrongState, match="vested"):
        dispute(world, submission)


def test_a_verdict_has_one_open_dispute_and_may_be_disputed_again_after_the_answer(world: World) -> None:
    submission = refused(world)
    made = dispute(world, submission)
    assert not may_dispute(submission)
    with pytest.raises(AlreadyDisputed):
        dispute(world, submission, "again")
    answer(world, made, "uphold")
    assert dispute(world, submission, "Look at pair 7.").state == DisputeState.OPEN


def test_a_rejected_diff_has_one_open_dispute_too(world: World) -> None:
    submission = world.submit(world.ann, "nonsense\n")
    made = dispute(world, submission)
    assert made.run is None
    with pytest.raises(AlreadyDisputed):
        dispute(world, submission)
    with pytest.raises(WrongState, match="nothing to measure"):
        answer(world, made, "remeasure")
    assert answer(world, made, "uphold").state == "upheld"


def test_disputes_are_bounded_per_person_and_bounty(world: World) -> None:
    submission = refused(world)
    for number in range(MAX_DISPUTES):
        answer(world, dispute(world, submission, f"reason {number}"), "uphold")
    with pytest.raises(TooManyDisputes, match=str(MAX_DISPUTES)):
        dispute(world, submission)
    other = world.gate(world.submit(world.bob, diff_of_line(5, "step_5 = 55")), 0.0)
    assert file_dispute(actor=world.bob, submission_id=other.pk, text="Mine is fine.").state == "open"


def test_a_dispute_is_answered_once(world: World) -> None:
    made = dispute(world, refused(world))
    answer(world, made, "uphold")
    assert answer(world, made, "uphold").state == "upheld"  # the same again changes nothing
    assert len(history(made)) == 2
    with pytest.raises(WrongState, match="already answered"):
        answer(world, made, "overturn")
    with pytest.raises(WrongState):
        answer_dispute(actor=world.ruth, dispute_id=made.pk, answer="uphold", text="Me too.")


def test_the_database_keeps_disputes_as_they_were(world: World) -> None:
    made = dispute(world, refused(world))
    rows = Dispute.objects.filter(pk=made.pk)
    changes: list[dict[str, Any]] = [{"text": "other"}, {"author": world.bob}, {"verdict_kind": "gain"}]
    for change in changes:
        with pytest.raises(DatabaseError), transaction.atomic():
            rows.update(**change)
    with pytest.raises(DatabaseError), transaction.atomic():
        rows.delete()
    own = {"state": "upheld", "answer": "Yes.", "answered_by": world.ann, "answered_at": timezone.now()}
    with pytest.raises(DatabaseError), transaction.atomic():
        rows.update(**own)
    answer(world, made, "uphold")
    with pytest.raises(DatabaseError), transaction.atomic():
        rows.update(answer="other")


def test_a_remeasurement_starts_from_the_gate_elsewhere_and_continues_to_the_award(world: World) -> None:
    submission = refused(world)
    other_key = generate_key()
    other, _ = world.add_runner(other_key, host="two")
    Runner.objects.filter(pk=other.pk).update(last_seen_at=timezone.now())
    made = answer(world, dispute(world, submission), "remeasure")
    assert made.ordered_run is not None and made.ordered_run.kind == RunKind.GATE
    submission = find_submission(submission.pk)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.QUEUED, "")
    with pytest.raises(NotLeasable):
        world.lease()  # the host that measured it first
    world.runner, world.key = other, other_key
    submission = world.gate(submission, 0.3)
    assert submission.state == SubmissionState.CONFIRMING
    submission = world.price(submission, 0.3)
    award = standing_award(submission)
    assert submission.state == SubmissionState.CONFIRMED and award is not None
    nonces = {run.nonce for run in submission.runs.all()}
    assert len(nonces) == 4
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_a_disputed_price_is_measured_again_and_replaced(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF, 0.2)
    old = standing_award(submission)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    made = answer(world, dispute(world, submission, "Too low."), "remeasure")
    submission = find_submission(submission.pk)
    assert made.ordered_run is not None and made.ordered_run.kind == RunKind.RECHECK
    assert submission.state == SubmissionState.CONFIRMING
    submission = world.price(submission, 0.22)
    new = standing_award(submission)
    assert submission.state == SubmissionState.ACCEPTED  # Ruth had accepted this very tree
    assert old is not None and new is not None and new.pk != old.pk
    assert (old.amount_microcredits or 0) < (new.amount_microcredits or 0) <= old.reserved_microcredits
    assert ledger.balance(world.ann).unvested == new.amount_microcredits
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_a_doubted_gain_is_restored_when_the_doubt_is_overturned(world: World, settings: Settings) -> None:
    settings.RECHECK_PERCENT = 100
    submission = world.gate(world.confirmed(world.ann, DIFF, 0.3), 0.0)
    assert submission.verdict_kind == "suspicious"
    answer(world, dispute(world, submission, "That runner was busy."), "overturn")
    submission = advance_submission(submission_id=submission.pk)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.CONFIRMED, "gain")
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert merge(actor=world.mira, submission_id=submission.pk).state == SubmissionState.VESTED


def test_a_doubted_gain_that_is_measured_again_gets_the_new_price(world: World, settings: Settings) -> None:
    settings.RECHECK_PERCENT = 100
    submission = world.gate(world.confirmed(world.ann, DIFF, 0.3), 0.0)
    settings.RECHECK_PERCENT = 0
    answer(world, dispute(world, submission), "remeasure")
    submission = find_submission(submission.pk)
    assert submission.state == SubmissionState.CONFIRMING
    submission = world.price(submission, 0.1)
    award = standing_award(submission)
    assert submission.state == SubmissionState.CONFIRMED
    assert award is not None and 80_000 < (award.log_ppm_bound or 0) < 100_000
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_a_suspicious_gate_that_is_overturned_still_needs_its_confirmation(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 5.0)
    assert submission.verdict_kind == "suspicious"  # past the suite's cap
    answer(world, dispute(world, submission, "It is a new algorithm."), "overturn")
    submission = advance_submission(submission_id=submission.pk)
    assert (submission.state, submission.runs.filter(kind=RunKind.CONFIRMATION).count()) == ("confirming", 1)
    assert world.gate(submission, 0.0).verdict_kind == "no_gain"


def test_an_overturned_verdict_counts_neither_as_an_attempt_nor_against_the_patch(world: World) -> None:
    submission = refused(world)
    with pytest.raises(AlreadyJudged):
        world.submit(world.ann, DIFF)
    answer(world, dispute(world, submission), "overturn")
    submission = find_submission(submission.pk)
    assert (submission.state, standing_award(submission)) == (SubmissionState.JUDGED, None)
    assert attempts_used(bounty=world.bounty, person=world.ann) == 0
    assert world.submit(world.ann, DIFF).state == SubmissionState.QUEUED


def test_no_one_overturns_a_confirmed_price(world: World) -> None:
    made = dispute(world, world.confirmed(world.ann, DIFF))
    with pytest.raises(WrongState, match="evidence"):
        answer(world, made, "overturn")
    assert find_dispute(made.pk).state == DisputeState.OPEN


def test_a_supposed_copy_is_judged_after_all(world: World) -> None:
    original = world.submit(world.bob, DIFF)
    copy = world.submit(world.ann, DIFF)
    world.gate(original, 0.0)
    copy = advance_submission(submission_id=copy.pk)  # rejected with its original
    made = answer(world, dispute(world, copy, "I sent it by mail before."), "remeasure")
    copy = find_submission(copy.pk)
    assert (copy.state, copy.copy_of, made.ordered_run) == (SubmissionState.QUEUED, None, copy.runs.get())


def test_a_verdict_that_was_replaced_meanwhile_is_only_upheld(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.3, events=DOUBT)
    made = dispute(world, submission)
    review(actor=world.ruth, submission_id=submission.pk, decision="decline", comment="no")
    with pytest.raises(WrongState, match="Uphold"):
        answer(world, made, "remeasure")
    assert answer(world, made, "uphold", "It was declined.").state == "upheld"


def test_a_withdrawn_submission_has_nothing_to_dispute(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    withdraw(actor=world.ann, submission_id=submission.pk)
    with pytest.raises(WrongState):
        dispute(world, find_submission(submission.pk))
