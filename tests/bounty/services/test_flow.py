"""The main path: a gain is judged, confirmed, accepted, merged and vested, and its credits can be spent."""

import pytest
from pytest_django import DjangoCaptureOnCommitCallbacks

from bounty.models import AwardState, BountyState, RunKind, RunState, SubmissionState
from bounty.services import wakeups
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.merges import merge
from bounty.services.reviews import review
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.conftest import Outbox


def test_a_gain_goes_all_the_way_to_spendable_credits(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    assert submission.state == SubmissionState.QUEUED

    submission = world.gate(submission, 0.3)
    assert submission.state == SubmissionState.CONFIRMING
    assert not submission.has_verdict
    award = standing_award(submission)
    assert award is not None and award.state == AwardState.RESERVED
    assert ledger.escrow_balance(world.bounty.escrow_reference).reserved == award.reserved_microcredits

    submission = world.gate(submission, 0.3)
    assert (submission.state, standing_award(submission)) == (SubmissionState.CONFIRMING, award)
    submission = world.guard(submission)
    assert submission.state == SubmissionState.CONFIRMED
    award = standing_award(submission)
    assert award is not None and award.state == AwardState.UNVESTED
    assert award.log_ppm_bound is not None and 280_000 < award.log_ppm_bound < 300_000
    assert award.amount_microcredits == world.rate * award.log_ppm_bound // 1_000_000
    assert ledger.balance(world.ann).available == 0
    assert ledger.balance(world.ann).unvested == award.amount_microcredits

    submission = review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert submission.state == SubmissionState.ACCEPTED
    submission = merge(actor=world.mira, submission_id=submission.pk)
    assert submission.state == SubmissionState.VESTED
    world.lineage.refresh_from_db()
    assert world.lineage.tip_id == submission.candidate_tree_id != world.tree.pk
    assert ledger.balance(world.ann).available == award.amount_microcredits
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_every_step_may_be_repeated(world: World) -> None:
    submission = world.vested(world.ann, diff_of_line(3, "step_3 = 33"))
    for _ in range(3):
        advance_submission(submission_id=submission.pk)
        merge(actor=world.mira, submission_id=submission.pk)
    award = standing_award(submission)
    assert award is not None
    assert submission.awards.count() == 1
    assert ledger.balance(world.ann).available == award.amount_microcredits
    assert submission.runs.count() == 3


def test_no_gain_earns_nothing_and_frees_the_queue(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    submission = world.gate(submission, 0.0)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "no_gain")
    assert submission.has_verdict
    assert not submission.awards.exists()
    assert ledger.escrow_balance(world.bounty.escrow_reference).reserved == 0


def test_regression_earns_nothing(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    submission = world.gate(submission, -0.3)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "regression")
    assert not submission.awards.exists()


def test_wrong_output_earns_nothing(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    event = {"kind": "wrong_output", "detail": "element 7 differs", "side": "candidate"}
    submission = world.gate(submission, 0.5, events=[event])
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "wrong_output")
    assert not submission.awards.exists()


def test_an_unconfirmed_gain_gives_the_reservation_back(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    submission = world.gate(submission, 0.3)
    submission = world.gate(submission, 0.0)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "no_gain")
    assert standing_award(submission) is None
    balance = ledger.escrow_balance(world.bounty.escrow_reference)
    assert (balance.reserved, balance.available) == (0, world.escrow)
    assert ledger.balance(world.ann).unvested == 0


def test_evidence_from_an_untrusted_sandbox_earns_nothing(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    submission = world.gate(submission, 0.3, level="none")
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "gain")
    assert "sandbox" in submission.verdict_reason
    assert not submission.awards.exists()


def test_the_runner_is_woken_when_the_submission_commits(
    world: World, outbox: Outbox, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    run = submission.runs.get()
    assert outbox.of("benchmarks.worker.run_job") == [str(run.pk)]
    assert outbox[0][2]["queue"] == "runner.cpu"
    with django_capture_on_commit_callbacks(execute=True):
        world.judge(0.3)
    assert outbox.of("bounty.tasks.advance_submission") == [str(submission.pk)]


def test_a_broker_that_is_away_fails_no_submission(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise ConnectionError("no broker")

    monkeypatch.setattr(wakeups.app, "send_task", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    assert submission.runs.get().state == RunState.QUEUED


def test_the_next_series_base_is_the_best_tree(world: World) -> None:
    first = world.vested(world.ann, diff_of_line(3, "step_3 = 33"))
    second = world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    gate = second.runs.get(kind=RunKind.GATE)
    assert gate.base_tree_id == first.candidate_tree_id == second.base_tree_id


def test_an_escrow_that_is_used_up_closes_after_a_partial_award(db: None) -> None:
    world = World(escrow=1_000_000)
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    submission = world.gate(submission, 0.3)
    world.bounty.refresh_from_db()
    assert world.bounty.state == BountyState.EXHAUSTED
    submission = world.price(submission, 0.3)
    award = standing_award(submission)
    assert award is not None and award.is_partial and award.amount_microcredits == 1_000_000
    world.bounty.refresh_from_db()
    assert world.bounty.state == BountyState.CLOSED
