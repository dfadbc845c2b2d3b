"""After the layout changed: nothing is judged on older trees, nothing is paid twice, and nothing is lost."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from pytest_django import Settings

from benchmarks.evidence.verify import verify_evidence
from bounty.errors import AlreadyJudged, NotAllowed, NotLeasable, OldLayout, Stopped, WrongBase
from bounty.models import (
    AwardState,
    Evidence,
    Run,
    RunKind,
    Runner,
    RunnerFailure,
    RunnerState,
    RunState,
    StateChange,
    Submission,
    SubmissionState,
)
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import reserve, reverse, standing_award
from bounty.services.bounties import find_bounty
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.emergency import lift, stop
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.renewal import Renewal, renew_lineages
from bounty.services.reviews import rejudge, review
from bounty.services.runners.calibration_schedule import calibrations_of
from bounty.services.runners.calls import heartbeat
from bounty.services.runs.lifecycle import order_aa_run
from bounty.services.series.best import measured_base, patch_base
from bounty.services.series.remeasure import remeasure
from bounty.services.submissions import attempts_used, find_submission, withdraw
from bounty.services.trees import blob_store, create_lineage
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.older_layout import (
    OLD_MODULES,
    broken_invariants,
    new_file,
    older_version,
    unfinished_runs,
)

pytestmark = pytest.mark.django_db

DIFF = diff_of_line(3, "step_3 = 33")
OTHER = diff_of_line(7, "step_7 = 77")


def old_world(**terms: Any) -> World:
    return World(modules=OLD_MODULES, **terms)


def renew(world: World) -> Renewal:
    return renew_lineages(actor=world.mira)


def accept(world: World, submission: Submission) -> Submission:
    return review(actor=world.ruth, submission_id=submission.pk, decision="accept")


def free_escrow(world: World) -> int:
    return ledger.escrow_balance(world.bounty.escrow_reference).available


def tip(world: World) -> str:
    world.lineage.refresh_from_db()
    return str(world.lineage.tip_id)


def queued(world: World) -> Submission:
    return world.submit(world.ann, DIFF)


def judging(world: World) -> Submission:
    submission = queued(world)
    world.commit(world.lease())
    return submission


def gate_passed(world: World) -> Submission:
    submission = queued(world)
    world.judge(0.3)
    return submission


def confirming(world: World) -> Submission:
    return world.gate(queued(world), 0.3)


def being_confirmed(world: World) -> Submission:
    submission = confirming(world)
    world.commit(world.lease())
    return submission


def being_guarded(world: World) -> Submission:
    submission = world.gate(confirming(world), 0.3)
    world.commit(world.lease())
    return submission


@pytest.mark.parametrize(
    "reached", [queued, judging, gate_passed, confirming, being_confirmed, being_guarded]
)
def test_an_open_submission_ends_uncounted_and_its_reservation_returns(
    reached: Callable[[World], Submission],
) -> None:
    with older_version():
        world = old_world()
        submission = reached(world)
        held = Run.objects.filter(runner=world.runner).exclude(state=RunState.FINISHED).first()
    done = renew(world)
    assert [row.ended for row in done.lineages] == [(submission.pk,)]
    submission = find_submission(submission.pk)
    assert (submission.state, submission.verdict_kind, submission.next_step) == (
        "judged",
        "patch_rejected",
        "",
    )
    assert "moved modules" in submission.verdict_reason and "submit it again" in submission.verdict_reason
    assert attempts_used(bounty=world.bounty, person=world.ann) == 0
    assert set(submission.awards.values_list("state", flat=True)) <= {AwardState.VOID}
    assert free_escrow(world) == world.escrow and find_bounty(world.bounty.pk).state == "open"
    assert unfinished_runs() == 0 and broken_invariants() == []
    assert tip(world) == done.shipped_tree == str(world.lineage.origin_id)
    if held is not None:  # its runner is told, and not blamed
        assert held.lease is not None
        beat = heartbeat(
            runner=world.runner, run_id=held.pk, lease=held.lease, stage="gating", pairs_done=3, pairs_max=48
        )
        assert beat.cancel and not RunnerFailure.objects.exists()
    assert Runner.objects.get().state == RunnerState.ACTIVE


def test_a_second_call_does_nothing() -> None:
    with older_version():
        world = old_world()
        confirming(world)
    assert len(renew(world).lineages) == 1
    changes = StateChange.objects.count()
    again = renew(world)
    assert (again.lineages, again.cancelled_calibrations) == ((), 0)
    assert StateChange.objects.count() == changes
    moves = StateChange.objects.filter(subject="lineage", reason__startswith="renewed")
    assert moves.count() == 1 and moves.get().old == world.tree.pk and moves.get().actor == world.mira


def test_only_a_maintainer_renews() -> None:
    with older_version():
        world = old_world()
    with pytest.raises(NotAllowed):
        renew_lineages(actor=world.ann)
    assert tip(world) == world.tree.pk


def test_present_lineages_and_their_submissions_are_left_alone(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.3)
    assert renew(world).lineages == ()
    assert find_submission(submission.pk).state == SubmissionState.CONFIRMING
    assert tip(world) == world.tree.pk


def test_what_waits_for_escrow_ends_too() -> None:
    with older_version():
        world = old_world(escrow=5_000_000)
        first = world.submit(world.ann, DIFF)
        second = world.submit(world.bob, OTHER)
        for _ in (first, second):
            world.judge(0.3)
        for submission in (first, second):
            advance_submission(submission_id=submission.pk)
        second.refresh_from_db()
    assert (second.state, second.next_step) == ("judged", "await_escrow")
    assert set(renew(world).lineages[0].ended) == {first.pk, second.pk}
    second.refresh_from_db()
    assert (second.state, second.next_step, second.verdict_kind) == ("judged", "", "patch_rejected")
    assert free_escrow(world) == world.escrow and broken_invariants() == []


def test_a_gain_that_was_measured_completely_is_booked_first() -> None:
    with older_version():
        world = old_world()
        submission = world.gate(confirming(world), 0.3)
        world.judge(0.0)  # the guard rails hold, and no one has read that yet
    done = renew(world)
    assert (done.lineages[0].ended, done.lineages[0].kept) == ((), ())
    submission = find_submission(submission.pk)
    award = standing_award(submission)
    assert submission.state == SubmissionState.CONFIRMED and award is not None
    assert ledger.balance(world.ann).unvested == award.amount_microcredits


def test_while_awards_are_stopped_nothing_is_renewed() -> None:
    with older_version():
        world = old_world()
        submission = confirming(world)
    stop(actor=world.mira, switch="awards", reason="an incident")
    with pytest.raises(Stopped):
        renew(world)
    assert (tip(world), find_submission(submission.pk).state) == (world.tree.pk, "confirming")
    lift(actor=world.mira, switch="awards", reason="over")
    assert renew(world).lineages[0].ended == (submission.pk,)


def test_a_booked_award_vests_on_acceptance_as_it_was_measured() -> None:
    with older_version():
        world = old_world()
        submission = world.confirmed(world.ann, DIFF)
    award = standing_award(submission)
    assert award is not None
    shipped = renew(world).shipped_tree
    assert find_submission(submission.pk).state == SubmissionState.CONFIRMED
    accept(world, submission)
    submission = advance_submission(submission_id=submission.pk)
    assert (submission.state, submission.merged_at) == (SubmissionState.VESTED, None)
    assert ledger.balance(world.ann).available == award.amount_microcredits
    assert tip(world) == shipped and submission.runs.filter(kind=RunKind.RECHECK).count() == 0
    why = StateChange.objects.get(subject="submission", subject_id=str(submission.pk), new="vested")
    assert "older layout" in why.reason
    with pytest.raises(OldLayout, match="against the lineage's tip"):
        merge(actor=world.mira, submission_id=submission.pk)
    assert tip(world) == shipped and broken_invariants() == []


@pytest.mark.parametrize("is_renewed", [True, False])
def test_merging_an_older_tree_pays_and_never_moves_the_tip(is_renewed: bool) -> None:
    with older_version():
        world = old_world()
        submission = accept(world, world.confirmed(world.ann, DIFF))
    if is_renewed:
        renew(world)
    before = tip(world)
    submission = merge(actor=world.mira, submission_id=submission.pk)
    award = standing_award(submission)
    assert submission.state == SubmissionState.VESTED and award is not None
    assert tip(world) == before != submission.candidate_tree_id
    assert ledger.balance(world.ann).available == award.amount_microcredits
    reverse(actor=world.mira, submission=find_submission(submission.pk), reason="it cached the answers")
    assert tip(world) == before and ledger.balance(world.ann).available == 0
    assert broken_invariants() == []


def test_beat_pays_what_was_accepted_before_the_renewal() -> None:
    with older_version():
        world = old_world()
        submission = accept(world, world.confirmed(world.ann, DIFF))
    renew(world)
    assert reconcile_runs().failed == []
    assert find_submission(submission.pk).state == SubmissionState.VESTED


def test_a_declined_older_gain_gives_its_award_back() -> None:
    with older_version():
        world = old_world()
        submission = world.confirmed(world.ann, DIFF)
    renew(world)
    review(actor=world.ruth, submission_id=submission.pk, decision="decline", comment="gone")
    assert free_escrow(world) == world.escrow and ledger.balance(world.ann).unvested == 0


def test_a_random_re_measurement_is_cancelled_and_the_award_is_kept(settings: Settings) -> None:
    settings.RECHECK_PERCENT = 100
    with older_version():
        world = old_world()
        submission = accept(world, world.confirmed(world.ann, DIFF))
        recheck = submission.runs.get(kind=RunKind.RECHECK)
    assert renew(world).lineages[0].kept == (submission.pk,)
    recheck.refresh_from_db()
    assert recheck.state == RunState.LOST
    assert advance_submission(submission_id=submission.pk).state == SubmissionState.VESTED


def test_a_new_price_is_cancelled_and_the_old_one_is_kept() -> None:
    with older_version():
        world = old_world()
        lower = world.confirmed(world.ann, DIFF)
        upper = accept(world, world.confirmed(world.bob, diff_of_line(5, "step_5 = 55")))
        priced = standing_award(upper)
        measured = upper.candidate_tree_id
        review(actor=world.ruth, submission_id=lower.pk, decision="decline", comment="unreadable")
        upper = advance_submission(submission_id=upper.pk)
    assert upper.state == SubmissionState.CONFIRMING and upper.candidate_tree_id != measured
    assert renew(world).lineages[0].kept == (upper.pk,)
    upper = find_submission(upper.pk)
    assert (upper.state, upper.candidate_tree_id, upper.verdict_kind) == ("confirmed", measured, "gain")
    assert standing_award(upper) == priced and upper.awards.count() == 1
    upper = advance_submission(submission_id=upper.pk)  # Ruth had accepted this candidate
    assert priced is not None and upper.state == SubmissionState.VESTED
    assert ledger.balance(world.bob).available == priced.amount_microcredits
    assert unfinished_runs() == 0 and broken_invariants() == []


def test_new_gains_are_measured_against_the_new_tip_alone() -> None:
    with older_version():
        world = old_world()
        paid, open_gain = world.vested(world.ann, DIFF), world.confirmed(world.bob, OTHER)
    shipped = renew(world).shipped_tree
    assert measured_base(bounty=world.bounty).pk == patch_base(bounty=world.bounty).pk == shipped
    new = world.confirmed(world.ann, new_file("quick"))
    assert new.state == SubmissionState.CONFIRMED and new.base_tree_id == shipped
    assert {run.base_tree_id for run in new.runs.all()} == {shipped}
    assert measured_base(bounty=world.bounty).pk == new.candidate_tree_id
    accept(world, new)
    assert merge(actor=world.mira, submission_id=new.pk).state == SubmissionState.VESTED
    assert tip(world) == new.candidate_tree_id
    accept(world, open_gain)  # an older award that is paid later is no measure either
    assert merge(actor=world.mira, submission_id=open_gain.pk).state == SubmissionState.VESTED
    assert measured_base(bounty=world.bounty).pk == tip(world) == new.candidate_tree_id
    assert find_submission(paid.pk).state == SubmissionState.VESTED
    assert renew(world).lineages == () and broken_invariants() == []


def test_one_change_is_not_paid_for_both_layouts() -> None:
    with older_version():
        world = old_world()
        world.confirmed(world.ann, new_file("quick"))
    renew(world)
    with pytest.raises(AlreadyJudged, match="has its award"):
        world.submit(world.ann, new_file("quick"))
    copy = world.submit(world.bob, new_file("quick"))
    assert copy.state == SubmissionState.REJECTED and "copy" in copy.verdict_reason


def test_what_ended_may_be_sent_again() -> None:
    with older_version():
        world = old_world()
        ended = world.gate(world.submit(world.ann, new_file("quick")), 0.3)
    renew(world)
    again = world.submit(world.ann, new_file("quick"))
    assert again.state == SubmissionState.QUEUED and again.pk != ended.pk
    assert attempts_used(bounty=world.bounty, person=world.ann) == 1


def test_nothing_is_judged_on_older_trees_before_the_renewal(client: Client) -> None:
    with older_version():
        world = old_world()
        submission = queued(world)
    with pytest.raises(NotLeasable):
        world.lease()
    assert calibrations_of("cpu") == []
    assert reconcile_runs().failed == []
    assert find_submission(submission.pk).runs.get().state == RunState.QUEUED
    text = client.get("/bounties/").content.decode()
    assert "gainshare lineages renew" in text and world.lineage.name in text
    withdraw(actor=world.ann, submission_id=submission.pk)  # its author need not wait
    renew(world)
    assert "gainshare lineages renew" not in client.get("/bounties/").content.decode()
    assert find_submission(submission.pk).state == SubmissionState.WITHDRAWN


def test_intake_refuses_diffs_against_older_trees() -> None:
    with older_version():
        world = old_world()
    with pytest.raises(OldLayout, match="gainshare lineages renew"):
        world.submit(world.ann, DIFF)
    shipped = renew(world).shipped_tree
    with pytest.raises(OldLayout, match=f"current tree, {shipped}"):
        world.submit(world.ann, DIFF, base_tree=world.tree.pk)
    with pytest.raises(WrongBase):
        world.submit(world.ann, DIFF, base_tree="0" * 64)
    assert Submission.objects.count() == 0


def test_a_patch_must_keep_what_the_judge_imports(world: World) -> None:
    path = "model/checkpoint.py"
    diff = (
        f"diff --git a/{path} b/{path}\ndeleted file mode 100644\n--- a/{path}\n+++ /dev/null\n"
        "@@ -1 +0,0 @@\n-NAME = 'model.checkpoint'\n"
    )
    refused = world.submit(world.ann, diff)
    assert refused.state == SubmissionState.REJECTED
    assert "model.checkpoint" in refused.verdict_reason


def test_a_late_worker_does_not_revive_what_has_ended() -> None:
    with older_version():
        world = old_world()
        submission = gate_passed(world)
        gate = submission.runs.get()
        Submission.objects.filter(pk=submission.pk).update(
            state="judged", verdict_kind="gain", verdict_run=gate, next_step="reserve"
        )
        late = find_submission(submission.pk)
    renew(world)
    reserve(submission=late, gate=gate.verdict)
    assert find_submission(submission.pk).state == SubmissionState.JUDGED
    assert free_escrow(world) == world.escrow and unfinished_runs() == 0


def test_no_one_orders_a_measurement_of_an_older_tree() -> None:
    with older_version():
        world = old_world()
        booked = world.confirmed(world.ann, DIFF)
        none = world.gate(world.submit(world.bob, diff_of_line(9, "step_9 = 99")), 0.0)
        suspicious = world.submit(world.bob, diff_of_line(11, "step_11 = 111"))
        Submission.objects.filter(pk=suspicious.pk).update(state="judged", verdict_kind="suspicious")
        suspicious.runs.update(state=RunState.LOST)
    renew(world)
    with pytest.raises(OldLayout, match="award is kept"):
        remeasure(actor=world.ann, submission_id=booked.pk)
    with pytest.raises(OldLayout):
        rejudge(actor=world.mira, submission_id=suspicious.pk)
    for submission, author in ((none, world.bob), (booked, world.ann)):
        dispute = file_dispute(actor=author, submission_id=submission.pk, text="no")
        with pytest.raises(OldLayout):
            answer_dispute(actor=world.mira, dispute_id=dispute.pk, answer="remeasure", text="again")
        answer_dispute(actor=world.mira, dispute_id=dispute.pk, answer="uphold", text="it stays")
    with pytest.raises(OldLayout):
        order_aa_run(actor=world.mira, suite="moe_forward", preset="demo", hardware="cpu", tree=world.tree.pk)
    with pytest.raises(OldLayout):
        create_lineage(actor=world.mira, name="again", base_tree=world.tree.pk)
    assert unfinished_runs() == 0 and standing_award(find_submission(booked.pk)) is not None


def test_calibrations_of_older_trees_are_cancelled() -> None:
    with older_version():
        world = old_world()
        run = order_aa_run(
            actor=world.mira, suite="moe_forward", preset="demo", hardware="cpu", tree=world.tree.pk
        )
    assert renew(world).cancelled_calibrations == 1
    run.refresh_from_db()
    assert (run.state, run.finished_at) == (RunState.LOST, None)
    assert [str(what.tree.pk) for what in calibrations_of("cpu")] == [tip(world)]


def test_evidence_of_an_older_tree_verifies_as_before() -> None:
    with older_version():
        world = old_world()
        world.confirmed(world.ann, DIFF)
    renew(world)
    assert Evidence.objects.count() == 3
    for evidence in Evidence.objects.select_related("run"):
        sealed = json.loads(blob_store().get(evidence.blob))
        assert sealed["document"]["trees"]["base"] == world.tree.pk
        report = verify_evidence(
            sealed,
            trusted_keys={world.runner.key_id: world.runner.public_key},
            nonce=evidence.run.nonce,
            commitment=evidence.run.commitment,
            require_installed_harness=True,
        )
        assert all(check.holds for check in report.checks) and report.verdict.kind == evidence.verdict.kind


def test_every_lineage_is_renewed_and_says_so() -> None:
    with older_version():
        world = old_world()
        other = create_lineage(actor=world.mira, name=f"also-{uuid4().hex[:8]}", base_tree=world.tree.pk)
    done = renew(world)
    assert {row.lineage for row in done.lineages} == {world.lineage.name, other.name}
    assert {row.old_tip for row in done.lineages} == {world.tree.pk}
    assert {row.tip for row in done.lineages} == {done.shipped_tree}
