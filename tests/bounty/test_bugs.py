"""A bug's bounty: reproduced, fixed, reviewed, merged, and paid as two awards from one escrow."""

import threading
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction

from benchmarks.evidence.document import seal
from benchmarks.evidence.signing import generate_key
from bounty.errors import (
    AlreadyJudged,
    AlreadyReproduced,
    BadRequest,
    BountyClosed,
    EscrowUsedUp,
    EvidenceRefused,
    NotAllowed,
    NotReproduced,
    TooManyAttempts,
    WrongState,
)
from bounty.models import (
    Award,
    AwardRole,
    AwardState,
    Bounty,
    BountyState,
    Reproduction,
    ReproductionState,
    Run,
    RunKind,
    SubmissionState,
)
from bounty.services.advance import advance_submission
from bounty.services.awards import reverse, standing_award, standing_awards
from bounty.services.bounties import add_funds
from bounty.services.calibration_schedule import calibrations_of
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.leaderboards import leaderboard
from bounty.services.queues import waiting_order
from bounty.services.reconcile import reconcile_runs
from bounty.services.reproductions import decline, open_bug, settle
from bounty.services.reviews import merge, rejudge, review
from bounty.services.run_care import cancel_run, rerun
from bounty.services.runs import order_aa_run
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import diff_of_line, job_of
from tests.bounty.bug_world import AWARD, FIX, TEXT, BugWorld, trials_of
from tests.bounty.synthetic import invented_document

SHARE = AWARD * 3 // 10
REST = AWARD - SHARE
OTHER_FIX = diff_of_line(3, "step_3 = 34")


@pytest.fixture
def world(db: None) -> BugWorld:
    return BugWorld()


def broken_invariants() -> list[str]:
    return [invariant.name for invariant in audit() if not invariant.holds]


def amounts(submission: Any) -> dict[str, tuple[str, int | None]]:
    return {award.role: (award.state, award.amount_microcredits) for award in standing_awards(submission)}


# -- reproductions ------------------------------------------------------------------------------------


def test_the_first_reproduction_is_the_bountys_and_fixes_are_judged_with_it(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    run = Run.objects.get(reproduction=made)
    assert (run.kind, run.base_tree_id, run.candidate_tree_id) == (
        "reproduction",
        world.tree.pk,
        world.tree.pk,
    )
    assert waiting_order(hardware="cpu") == [run.pk]
    world.try_out()
    made = settle(reproduction_id=made.pk)
    assert (made.state, made.verdict_kind) == (ReproductionState.ADOPTED, "gain")
    submission = world.submit(world.bob, FIX, world.bug)
    fix = submission.runs.get()
    assert (fix.kind, fix.reproduction) == (RunKind.FIX, made)


def test_a_fix_before_the_bug_is_reproduced_is_refused(world: BugWorld) -> None:
    with pytest.raises(NotReproduced, match="send one in first"):
        world.submit(world.bob, FIX, world.bug)
    world.reproduce(world.ann)  # not tried yet
    with pytest.raises(NotReproduced):
        world.submit(world.bob, FIX, world.bug)


@pytest.mark.parametrize(
    ("outcome", "kind", "words"),
    [("holds", "no_gain", "Does not reproduce"), ("broken", "build_failed", "work")],
)
def test_what_shows_nothing_is_refused_with_the_reason(
    outcome: str, kind: str, words: str, world: BugWorld
) -> None:
    made = world.reproduce(world.ann)
    world.try_out(base=outcome)
    made = settle(reproduction_id=made.pk)
    assert (made.state, made.verdict_kind) == (ReproductionState.REFUSED, kind)
    assert words in made.verdict_reason
    with pytest.raises(AlreadyJudged):
        world.reproduce(world.bob)  # the very same file
    world.reproduce(world.ann, TEXT + "# seeded now\n")


def test_sealed_order_decides_who_was_first_not_whose_run_ends_sooner(world: BugWorld) -> None:
    first, second = world.reproduce(world.ann), world.reproduce(world.bob, TEXT + "\n")
    slow = world.lease()
    mine = world.runner, world.key
    world.key = generate_key()
    world.runner, _ = world.add_runner(world.key, host="two")
    assert world.try_out().reproduction == second
    assert settle(reproduction_id=second.pk).state == ReproductionState.REPRODUCED
    world.runner, world.key = mine
    assert slow.reproduction == first
    world.try_out()  # its runner was restarted
    assert settle(reproduction_id=first.pk).state == ReproductionState.ADOPTED
    assert settle(reproduction_id=second.pk).state == ReproductionState.REPRODUCED


def test_the_next_in_order_comes_first_when_an_earlier_one_shows_nothing(world: BugWorld) -> None:
    first, second = world.reproduce(world.ann), world.reproduce(world.bob, TEXT + "\n")
    world.try_out(base="holds")
    world.try_out()
    reconcile_runs()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == (ReproductionState.REFUSED, ReproductionState.ADOPTED)
    with pytest.raises(AlreadyReproduced):
        world.reproduce(world.ann, TEXT + "\n\n")


def test_a_maintainer_says_that_it_is_no_bug_and_the_next_one_takes_its_place(world: BugWorld) -> None:
    first, second = world.reproduce(world.ann), world.reproduce(world.bob, TEXT + "\n")
    world.try_out()
    world.try_out()
    reconcile_runs()
    with pytest.raises(NotAllowed):
        decline(actor=world.bob, reproduction_id=first.pk, reason="mine is better")
    with pytest.raises(BadRequest):
        decline(actor=world.ruth, reproduction_id=first.pk, reason=" ")
    submission = world.submit(world.bob, FIX, world.bug)
    with pytest.raises(WrongState, match="being judged"):
        decline(actor=world.ruth, reproduction_id=first.pk, reason="it always fails")
    world.try_out(candidate="refused")
    advance_submission(submission_id=submission.pk)
    for _ in range(2):
        assert (
            decline(actor=world.ruth, reproduction_id=first.pk, reason="it always fails").state == "declined"
        )
    second.refresh_from_db()
    assert second.state == ReproductionState.ADOPTED


def test_evidence_of_a_weak_sandbox_reproduces_nothing(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    world.try_out(level="none")
    made = settle(reproduction_id=made.pk)
    assert made.state == ReproductionState.REFUSED and "sandbox" in made.verdict_reason


def test_evidence_about_another_reproduction_is_refused(world: BugWorld) -> None:
    world.reproduce(world.ann)
    run = world.lease()
    world.commit(run)
    trials = trials_of("reproduction", base="refused", candidate="")
    document = invented_document(run=job_of(run), units=0, trials=trials, reproduction="b" * 64)
    with pytest.raises(EvidenceRefused, match="reproduction"):
        world.record(run, seal(document, world.key))


def test_attempts_are_limited_and_files_bounded(world: BugWorld) -> None:
    few = world.open_bug(max_attempts=1)
    with pytest.raises(BadRequest, match="16384"):
        world.reproduce(world.ann, "#" * 20_000, few)
    with pytest.raises(BadRequest, match="empty"):
        world.reproduce(world.ann, "", few)
    with pytest.raises(BadRequest, match="not for a bug"):
        world.reproduce(world.ann, TEXT, world.bounty)
    world.reproduce(world.ann, TEXT, few)
    with pytest.raises(TooManyAttempts):
        world.reproduce(world.ann, TEXT + "\n", few)


def test_the_platforms_failure_is_no_attempt_and_the_file_may_come_again(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    run = Run.objects.get(reproduction=made)
    cancel_run(actor=world.mira, run_id=run.pk, reason="the runner is moved")
    made = settle(reproduction_id=made.pk)
    assert (made.state, made.verdict_kind) == (ReproductionState.REFUSED, "infrastructure_error")
    with pytest.raises(WrongState, match="sends it in again"):
        rerun(actor=world.mira, run_id=run.pk, reason="again")
    assert world.adopted().state == ReproductionState.ADOPTED


# -- the whole way ------------------------------------------------------------------------------------


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
    add_more(world)
    world.adopted()
    first = world.submit(world.bob, FIX, world.bug)
    second = world.submit(world.ann, OTHER_FIX, world.bug)
    for each in (first, second):
        world.try_out()
        advance_submission(submission_id=each.pk)
    second.refresh_from_db()
    assert (second.state, second.next_step) == ("judged", "await_escrow")
    review(actor=world.ruth, submission_id=first.pk, decision="decline", comment="unreadable")
    assert ledger.balance(world.bob).unvested == 0
    reconcile_runs()
    second.refresh_from_db()
    assert second.state == SubmissionState.CONFIRMED
    assert ledger.balance(world.ann).unvested == AWARD
    assert Award.objects.filter(state=AwardState.VOID).count() == 2 and broken_invariants() == []


def add_more(world: BugWorld) -> None:
    """Escrow for more than one award: not the money is what keeps a second fix from being paid."""
    add_funds(actor=world.mira, bounty_id=world.bug.pk, transfer_id=uuid4(), amount_microcredits=5 * AWARD)


def test_one_bug_is_paid_once_whatever_the_escrow_holds(world: BugWorld) -> None:
    add_more(world)
    world.adopted()
    first = world.submit(world.bob, FIX, world.bug)
    second = world.submit(world.ann, OTHER_FIX, world.bug)
    for each in (first, second):
        world.try_out()
        advance_submission(submission_id=each.pk)
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
    assert (copy.state, copy.copy_of) == (SubmissionState.REJECTED, first)
    world.try_out(candidate="refused")
    advance_submission(submission_id=first.pk)
    with pytest.raises(AlreadyJudged):
        world.submit(world.bob, FIX, world.bug)


def test_used_up_escrow_takes_no_more_fixes(world: BugWorld) -> None:
    world.adopted()
    world.fix()
    world.bug.refresh_from_db()
    assert world.bug.state == BountyState.EXHAUSTED
    with pytest.raises(EscrowUsedUp):
        world.submit(world.ann, OTHER_FIX, world.bug)


# -- the tip moves ------------------------------------------------------------------------------------


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
    add_more(world)
    world.adopted()
    first = world.submit(world.bob, FIX, world.bug)
    second = world.submit(world.ann, OTHER_FIX, world.bug)
    for each in (first, second):
        world.try_out()
        advance_submission(submission_id=each.pk)
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


# -- terms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms",
    [
        {"severity": ""},
        {"severity": "awful"},
        {"award_microcredits": None},
        {"award_microcredits": AWARD + 1},
        {"award_microcredits": 0},
        {"reproduction_ppm": 1_000_000},
        {"reproduction_ppm": -1},
        {"rate_microcredits_per_nat": 5},
        {"review_window_s": 60},
    ],
)
def test_terms_that_no_bug_can_have_are_refused(terms: dict[str, Any], world: BugWorld) -> None:
    with pytest.raises(BadRequest):
        world.open_bug(**terms)


def test_a_gains_bounty_has_no_severity(world: BugWorld) -> None:
    with pytest.raises(BadRequest, match="belong to bounties for a bug"):
        world.open(severity="low")


@pytest.mark.parametrize(
    "changed",
    [
        {"award_microcredits": AWARD - 1},
        {"reproduction_ppm": 299_999},
        {"reproduction_ppm": 300_001},
        {"severity": "low"},
        {"award_microcredits": None},
        {"rate_microcredits_per_nat": 1},
        {"escrow_microcredits": AWARD - 1},
    ],
)
def test_the_database_holds_what_a_bug_pays(changed: dict[str, Any], world: BugWorld) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Bounty.objects.filter(pk=world.bug.pk).update(**changed)


def test_a_sealed_reproduction_never_changes(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    for changed in ({"blob": "b" * 64}, {"author": world.bob}, {"earns": False}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Reproduction.objects.filter(pk=made.pk).update(**changed)
    with pytest.raises(IntegrityError), transaction.atomic():
        connection.cursor().execute("DELETE FROM bounty_reproduction")


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


def test_nothing_is_tried_with_a_declined_reproduction(world: BugWorld) -> None:
    made = world.adopted()
    submission = world.fix(base="broken")
    assert submission.verdict_kind == "suspicious"
    decline(actor=world.ruth, reproduction_id=made.pk, reason="it always fails")
    with pytest.raises(NotReproduced):
        rejudge(actor=world.mira, submission_id=submission.pk)
    with pytest.raises(NotReproduced):
        world.submit(world.ann, OTHER_FIX, world.bug)
    world.adopted(world.bob, TEXT + "\n")
    rejudge(actor=world.mira, submission_id=submission.pk)
    assert world.try_out().reproduction != made


def test_a_reproduction_that_was_paid_is_not_declined_any_more(world: BugWorld) -> None:
    made = world.adopted()
    world.paid(world.fix())
    with pytest.raises(WrongState):
        decline(actor=world.ruth, reproduction_id=made.pk, reason="late")
