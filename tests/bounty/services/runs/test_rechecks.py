"""Random re-measurement during review: ordered with the booking, seen by reviewers, and what follows from it."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from benchmarks.evidence.signing import generate_key
from bounty.errors import NotLeasable, WrongState
from bounty.models import AwardState, RunKind, Runner, RunState, StateChange, Submission, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.bounties import close_bounty
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import rejudge, review
from bounty.services.runs.rechecks import CheckOutcome, check_of
from bounty.services.series.best import measured_base
from bounty.services.submissions import find_submission
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


@pytest.fixture(autouse=True)
def all_are_drawn(settings: Settings) -> None:
    settings.RECHECK_PERCENT = 100


def outcome(submission: Submission) -> CheckOutcome | None:
    award = standing_award(submission)
    assert award is not None
    check = check_of(award)
    return check.outcome if check is not None else None


def shown(submission: Submission, person: User | None = None) -> Any:
    client = APIClient()
    client.force_authenticate(person)
    return client.get(f"/api/v1/submissions/{submission.pk}/").json()


def test_nothing_is_measured_again_where_nothing_is_drawn(world: World, settings: Settings) -> None:
    settings.RECHECK_PERCENT = 0
    submission = world.confirmed(world.ann, DIFF)
    assert outcome(submission) is None
    assert shown(submission)["check"] is None


def test_a_drawn_gain_is_measured_again_with_the_same_trees_and_fresh_secrets(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    assert submission.state == SubmissionState.CONFIRMED
    first, again = submission.runs.get(kind=RunKind.CONFIRMATION), submission.runs.get(kind=RunKind.RECHECK)
    assert (again.base_tree_id, again.candidate_tree_id) == (first.base_tree_id, first.candidate_tree_id)
    leased = world.lease()
    assert (leased.pk, leased.kind, leased.judged_as) == (again.pk, "recheck", "confirmation")
    assert leased.nonce and leased.nonce != first.nonce
    seen = shown(submission)
    assert seen["stage"] == "confirmed: random re-measurement"
    assert seen["check"] == {"run": str(again.pk), "outcome": "running", "doubt": ""}


def test_it_prefers_another_host_than_the_confirmations(world: World) -> None:
    world.confirmed(world.ann, DIFF)
    other, _ = world.add_runner(generate_key(), host="two")
    Runner.objects.filter(pk=other.pk).update(last_seen_at=timezone.now())
    with pytest.raises(NotLeasable):
        world.lease()
    assert world.lease(other).kind == RunKind.RECHECK


def test_a_gain_that_is_found_again_keeps_its_price(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF, 0.3)
    before = standing_award(submission)
    submission = world.gate(submission, 0.2)
    after = standing_award(submission)
    assert (submission.state, outcome(submission)) == ("confirmed", CheckOutcome.CONSISTENT)
    assert before == after and after is not None and before is not None
    assert after.amount_microcredits == before.amount_microcredits
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert merge(actor=world.mira, submission_id=submission.pk).state == SubmissionState.VESTED


def test_a_merge_and_the_review_window_wait_for_the_end_of_the_check(settings: Settings, db: None) -> None:
    world = World(terms={"review_window_s": 60})
    submission = world.confirmed(world.ann, DIFF)
    submission = review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert submission.state == SubmissionState.ACCEPTED
    with pytest.raises(WrongState, match="random re-measurement"):
        merge(actor=world.mira, submission_id=submission.pk)
    Submission.objects.filter(pk=submission.pk).update(confirmed_at=timezone.now() - timedelta(hours=1))
    reconcile_runs()
    assert find_submission(submission.pk).state == SubmissionState.ACCEPTED
    world.judge(0.3)
    reconcile_runs()
    assert find_submission(submission.pk).state == SubmissionState.VESTED


@pytest.mark.parametrize("speed_up_log", [0.0, 0.1, -0.2])
def test_a_gain_that_is_not_found_again_waits_for_a_maintainer(world: World, speed_up_log: float) -> None:
    submission = world.confirmed(world.ann, DIFF, 0.3)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    submission = world.gate(submission, speed_up_log)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "suspicious")
    assert "random re-measurement" in submission.verdict_reason
    award = standing_award(submission)
    assert award is not None and award.state == AwardState.UNVESTED  # until somebody decides
    assert measured_base(bounty=world.bounty).pk == submission.candidate_tree_id
    for _ in range(2):
        assert advance_submission(submission_id=submission.pk).state == SubmissionState.JUDGED
    assert StateChange.objects.filter(subject="submission", old="accepted", new="judged").count() == 1
    with pytest.raises(WrongState):
        merge(actor=world.mira, submission_id=submission.pk)
    seen = shown(submission, world.ruth)
    assert seen["check"]["outcome"] == "inconsistent" and seen["check"]["doubt"]
    assert seen["verdict"]["kind"] == "suspicious"


def test_declining_a_doubted_gain_gives_the_money_back(world: World) -> None:
    submission = world.gate(world.confirmed(world.ann, DIFF, 0.3), 0.0)
    close_bounty(bounty_id=world.bounty.pk, reason="enough", actor=world.mira)
    world.bounty.refresh_from_db()
    assert world.bounty.escrow_returned_at is None  # an award still waits in it
    treasury = ledger.totals().treasury
    review(actor=world.ruth, submission_id=submission.pk, decision="decline", comment="not real")
    assert ledger.balance(world.ann).unvested == 0
    reconcile_runs()
    assert ledger.totals().treasury == treasury + world.escrow
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_judging_a_doubted_gain_again_starts_from_the_gate_without_its_award(world: World) -> None:
    submission = world.gate(world.confirmed(world.ann, DIFF, 0.3), 0.0)
    submission = rejudge(actor=world.mira, submission_id=submission.pk)
    assert submission.state == SubmissionState.QUEUED
    assert standing_award(submission) is None
    world.gate(submission, 0.25)
    submission = world.price(submission, 0.25)
    assert submission.state == SubmissionState.CONFIRMED
    assert outcome(submission) == CheckOutcome.RUNNING  # drawn again: it is the same submission
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_a_declined_gain_is_not_measured_again_any_more(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="decline", comment="unreadable")
    assert submission.runs.get(kind=RunKind.RECHECK).state == RunState.LOST
    with pytest.raises(NotLeasable):
        world.lease()


def test_a_check_that_the_platform_could_not_make_changes_nothing(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    event = [{"kind": "infrastructure_error", "detail": "the disk is full"}]
    for _ in range(3):
        world.judge(0.3, events=event)
    submission = advance_submission(submission_id=submission.pk)
    assert (submission.state, outcome(submission)) == ("confirmed", CheckOutcome.FAILED)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert merge(actor=world.mira, submission_id=submission.pk).state == SubmissionState.VESTED
