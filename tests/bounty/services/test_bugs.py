"""A bug's bounty: reproduced, fixed, reviewed, merged, and paid as two awards from one escrow."""

import threading
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction

from bounty.errors import AlreadyJudged, BadRequest, BountyClosed, EscrowUsedUp, NotAllowed
from bounty.models import Award, AwardRole, AwardState, Bounty, BountyState, Reproduction, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import reverse, standing_award, standing_awards
from bounty.services.leaderboards import leaderboard
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reproductions import open_bug, settle
from bounty.services.reviews import rejudge, review
from bounty.services.runners.calibration_schedule import calibrations_of
from bounty.services.runs.lifecycle import order_aa_run
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.bug_world import (
    AWARD,
    FIX,
    OTHER_FIX,
    REST,
    SHARE,
    TEXT,
    BugWorld,
    amounts,
    broken_invariants,
)


@pytest.fixture
def world(db: None) -> BugWorld:
    return BugWorld()


def test_a_fix_goes_all_the_way_to_two_spendable_awards(world: BugWorld) -> None:
    world.adopted(world.ann)
    submission = world.fix(world.bob)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.CONFIRMED, "gain")
    assert amounts(submission) == {"fix": ("unvested", REST), "reproduction": ("unvested", SHARE)}
    assert (ledger.balance(world.ann).unvested, ledger.balance(world.bob).unvested) == (SHARE, REST)
    assert ledger.escrow_balance(world.bug.escrow_reference).available == 0
    assert submission.runs.count() == 1  # no confirmation, no guard run
    submission = world.paid(submission)
    assert submission.state == SubmissionState.VESTED
    assert (ledger.balance(world.ann).available, ledger.balance(world.bob).available) == (SHARE, REST)
    world.lineage.refresh_from_db()
    world.bug.refresh_from_db()
    assert world.lineage.tip_id == submission.candidate_tree_id
    assert world.bug.state == BountyState.CLOSED
    for _ in range(2):
        reconcile_runs()
        merge(actor=world.mira, submission_id=submission.pk)
    assert Award.objects.count() == 2 and broken_invariants() == []
    assert leaderboard(bounty=world.bug) == []  # which is of gains


def test_one_person_who_does_both_gets_both_lots(world: BugWorld) -> None:
    world.adopted(world.ann)
    submission = world.paid(world.fix(world.ann))
    assert ledger.balance(world.ann).available == AWARD
    assert {award.recipient for award in standing_awards(submission)} == {world.ann}


def test_a_bounty_with_its_own_reproduction_pays_all_of_it_to_the_fix(world: BugWorld) -> None:
    world.bug = open_bug(
        actor=world.mira,
        reproduction=TEXT,
        title="t",
        lineage=world.lineage.name,
        suite="bug",
        preset="standard",
        hardware="cpu",
        escrow_microcredits=2 * AWARD,
        severity="low",
        award_microcredits=AWARD,
    )
    made = Reproduction.objects.get()
    assert not made.earns
    world.try_out()
    settle(reproduction_id=made.pk)
    submission = world.fix(world.bob)
    assert amounts(submission) == {"fix": ("unvested", AWARD)}


def test_nothing_of_a_refused_reproduction_opens_a_bounty(world: BugWorld) -> None:
    before = Bounty.objects.count()
    with pytest.raises(BadRequest):
        open_bug(
            actor=world.mira,
            reproduction="",
            title="t",
            lineage=world.lineage.name,
            suite="bug",
            preset="standard",
            hardware="cpu",
            escrow_microcredits=AWARD,
            severity="low",
            award_microcredits=AWARD,
        )
    assert Bounty.objects.count() == before and broken_invariants() == []


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ({"candidate": "refused"}, "no_gain"),
        ({"base": "holds"}, "no_gain"),
        ({"base": "broken"}, "suspicious"),
    ],
)
def test_what_is_no_fix_earns_nothing(outcomes: dict[str, str], kind: str, world: BugWorld) -> None:
    world.adopted()
    submission = world.fix(**outcomes)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, kind)
    assert not Award.objects.exists()
    assert ledger.escrow_balance(world.bug.escrow_reference).available == AWARD


def test_a_suspicious_fix_is_tried_again_by_a_maintainer(world: BugWorld) -> None:
    world.adopted()
    submission = world.fix(base="broken")
    submission = rejudge(actor=world.mira, submission_id=submission.pk)
    world.try_out()
    submission = advance_submission(submission_id=submission.pk)
    assert submission.state == SubmissionState.CONFIRMED
    assert set(submission.runs.values_list("kind", "sequence")) == {("fix", 1), ("fix", 2)}


def test_neither_author_reviews_the_fix(world: BugWorld) -> None:
    world.adopted(world.ruth)  # a maintainer, who did not open the bounty
    submission = world.fix(world.bob)
    with pytest.raises(NotAllowed, match="paid for reproducing"):
        review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    review(actor=world.mira, submission_id=submission.pk, decision="accept")
    assert merge(actor=world.mira, submission_id=submission.pk).state == SubmissionState.VESTED


def test_both_lots_together_decide_how_many_reviewers_a_bug_needs(world: BugWorld) -> None:
    world.bug = world.open_bug(two_reviews_above_microcredits=AWARD - 1)
    world.adopted()
    submission = world.fix()
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    submission = advance_submission(submission_id=submission.pk)
    assert submission.state == SubmissionState.CONFIRMED
    review(actor=world.mira, submission_id=submission.pk, decision="accept")
    assert advance_submission(submission_id=submission.pk).state == SubmissionState.ACCEPTED


def test_a_decline_gives_both_lots_back_and_lets_the_next_fix_be_paid(world: BugWorld) -> None:
    first, second = world.two_fixes()
    assert (second.state, second.next_step) == ("judged", "await_escrow")
    review(actor=world.ruth, submission_id=first.pk, decision="decline", comment="unreadable")
    assert ledger.balance(world.bob).unvested == 0
    reconcile_runs()
    second.refresh_from_db()
    assert second.state == SubmissionState.CONFIRMED
    assert ledger.balance(world.ann).unvested == AWARD
    assert Award.objects.filter(state=AwardState.VOID).count() == 2 and broken_invariants() == []


def test_one_bug_is_paid_once_whatever_the_escrow_holds(world: BugWorld) -> None:
    first, second = world.two_fixes()
    world.paid(first)
    reconcile_runs()
    second.refresh_from_db()
    assert not standing_awards(second).exists()
    assert Award.objects.count() == 2
    assert ledger.escrow_balance(world.bug.escrow_reference).posted == 0  # what was left went back
    with pytest.raises(BountyClosed):
        world.submit(world.ann, diff_of_line(5, "step_5 = 6"), world.bug)


def test_the_database_itself_pays_one_bug_and_one_role_once(world: BugWorld) -> None:
    world.adopted()
    submission = world.fix()
    award = standing_award(submission)
    assert award is not None and award.role == AwardRole.FIX
    for changed in (
        {"role": "gain"},
        {"role": "reproduction"},
        {"bug": None},
        {"log_ppm_bound": 1},
        {"amount_microcredits": AWARD},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            Award.objects.filter(pk=award.pk).update(**changed)
    copied = {
        field.attname: getattr(award, field.attname)
        for field in Award._meta.concrete_fields
        if field.name != "id"
    }
    copied |= {
        "reservation_id": uuid4(),
        "transfer_id": uuid4(),
        "confirmation_run_id": None,
        "state": "reserved",
    }
    copied |= {"amount_microcredits": None}
    with pytest.raises(IntegrityError, match=r"one_award_per_submission|one_bug_is_paid_once"):
        with transaction.atomic():
            Award.objects.create(**copied)


def test_a_reversal_takes_both_lots_and_the_merge(world: BugWorld) -> None:
    world.adopted(world.ann)
    submission = world.paid(world.fix(world.bob))
    reverse(actor=world.mira, submission=submission, reason="it broke training")
    assert (ledger.balance(world.ann).available, ledger.balance(world.bob).available) == (0, 0)
    assert set(Award.objects.values_list("state", flat=True)) == {AwardState.REVERSED}
    world.lineage.refresh_from_db()
    assert world.lineage.tip_id == world.tree.pk and broken_invariants() == []


def test_a_copy_of_a_fix_earns_nothing(world: BugWorld) -> None:
    world.adopted()
    first = world.submit(world.bob, FIX, world.bug)
    copy = world.submit(world.ann, FIX, world.bug)
    assert copy.state == SubmissionState.CHECKED
    world.try_out(candidate="refused")
    advance_submission(submission_id=first.pk)
    copy = advance_submission(submission_id=copy.pk)
    assert (copy.state, copy.copy_of) == (SubmissionState.REJECTED, first)
    with pytest.raises(AlreadyJudged):
        world.submit(world.bob, FIX, world.bug)


def test_used_up_escrow_takes_no_more_fixes(world: BugWorld) -> None:
    world.adopted()
    world.fix()
    world.bug.refresh_from_db()
    assert world.bug.state == BountyState.EXHAUSTED
    with pytest.raises(EscrowUsedUp):
        world.submit(world.ann, OTHER_FIX, world.bug)


def test_bugs_make_no_noise_figures(world: BugWorld) -> None:
    assert "bug" not in [each.suite for each in calibrations_of("cpu")]
    with pytest.raises(BadRequest):
        order_aa_run(actor=world.mira, suite="bug", preset="standard", hardware="cpu", tree=world.tree.pk)


@pytest.mark.django_db(transaction=True)
def test_many_workers_book_a_fix_once() -> None:
    world = BugWorld()
    world.adopted()
    submission = world.submit(world.bob, FIX, world.bug)
    world.try_out()

    def work() -> None:
        try:
            advance_submission(submission_id=submission.pk)
            reconcile_runs()
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    submission.refresh_from_db()
    assert submission.state == SubmissionState.CONFIRMED
    assert Award.objects.count() == 2 and broken_invariants() == []
