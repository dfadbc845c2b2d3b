"""Guard rails: between the price and the award, one run that shows that nothing else became worse."""

import threading

import pytest
from django.db import IntegrityError, connection, transaction

from bounty.models import Award, AwardState, Run, RunKind, SubmissionState
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.reviews import rejudge
from bounty.services.runs.guard_rails import guard_of, order_guard, pricing_run
from bounty.services.transitions import move
from bounty.stages import stage
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


def priced(world: World, speed_up_log: float = 0.3) -> Run:
    """Ann's gain up to its confirmed price; the guard run waits. Returns the pricing run."""
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    submission = world.gate(submission, speed_up_log)
    assert submission.state == SubmissionState.CONFIRMING
    run = pricing_run(submission)
    assert run is not None
    return run


def test_a_confirmed_price_waits_for_its_guard_rails(world: World) -> None:
    run = priced(world)
    guard = guard_of(run)
    assert guard is not None and guard.kind == RunKind.GUARD
    assert (guard.base_tree_id, guard.candidate_tree_id) == (run.base_tree_id, run.candidate_tree_id)
    assert (guard.suite, guard.preset) == (world.bounty.suite, world.bounty.preset)
    award = Award.objects.get()
    assert (award.state, award.amount_microcredits) == (AwardState.RESERVED, None)
    assert ledger.balance(world.ann).unvested == 0


def test_guard_rails_that_hold_book_the_confirmations_bound(world: World) -> None:
    run = priced(world, 0.2)
    assert run.submission is not None
    submission = world.guard(run.submission, 0.01)
    award = standing_award(submission)
    assert (submission.state, submission.verdict_run_id) == (SubmissionState.CONFIRMED, run.pk)
    assert award is not None and award.confirmation_run == run
    assert award.log_ppm_bound is not None and 180_000 < award.log_ppm_bound < 200_000


def test_a_gain_that_costs_elsewhere_earns_nothing(world: World) -> None:
    run = priced(world)
    assert run.submission is not None
    submission = world.guard(run.submission, -0.2)
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "regression")
    assert "makes something else worse" in submission.verdict_reason
    assert submission.verdict_run == guard_of(run)
    assert Award.objects.get().state == AwardState.VOID
    assert ledger.escrow_balance(world.bounty.escrow_reference).available == world.escrow


def test_what_a_candidate_does_in_its_guard_run_counts_too(world: World) -> None:
    run = priced(world)
    assert run.submission is not None
    event = {"kind": "policy_violation", "detail": "it wrote to the clock", "side": "candidate"}
    submission = world.guard(run.submission, 0.0, events=[event])
    assert (submission.state, submission.verdict_kind) == (SubmissionState.JUDGED, "policy_violation")
    assert standing_award(submission) is None


def test_guard_rails_from_an_untrusted_sandbox_book_nothing(world: World) -> None:
    run = priced(world)
    assert run.submission is not None
    submission = world.guard(run.submission, 0.0, level="none")
    assert submission.state == SubmissionState.JUDGED and "sandbox" in submission.verdict_reason
    assert standing_award(submission) is None


def test_the_platforms_failure_in_a_guard_run_is_judged_again_not_held_against_the_patch(
    world: World,
) -> None:
    run = priced(world)
    assert run.submission is not None
    event = [{"kind": "infrastructure_error", "detail": "the disk is full"}]
    for attempt in (1, 2, 3):
        guard = guard_of(run)
        assert guard is not None and (guard.state, guard.attempt) == ("queued", attempt - 1)
        world.judge(0.0, events=event)
    submission = advance_submission(submission_id=run.submission.pk)
    assert (submission.state, submission.verdict_kind) == ("judged", "infrastructure_error")
    assert standing_award(submission) is None
    submission = rejudge(actor=world.mira, submission_id=submission.pk)
    world.gate(submission, 0.3)
    assert world.price(submission, 0.3).state == SubmissionState.CONFIRMED


def test_a_price_has_one_guard_run(world: World) -> None:
    run = priced(world)
    assert run.submission is not None
    for _ in range(3):
        assert order_guard(submission=run.submission, priced=run) is False
        advance_submission(submission_id=run.submission.pk)
    assert Run.objects.filter(kind=RunKind.GUARD).count() == 1
    guard = guard_of(run)
    assert guard is not None
    with pytest.raises(IntegrityError), transaction.atomic():
        Run.objects.filter(pk=guard.pk).update(after=None)


def test_a_gain_that_ended_meanwhile_gets_no_guard_run(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    world.judge(0.3)
    submission.refresh_from_db()
    assert move(submission, to=SubmissionState.WITHDRAWN, reason="test")
    run = pricing_run(submission)
    assert run is not None and order_guard(submission=submission, priced=run) is False
    assert guard_of(run) is None


@pytest.mark.django_db(transaction=True)
def test_many_workers_order_one_guard_run() -> None:
    world = World()
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    world.judge(0.3)

    def advance() -> None:
        try:
            advance_submission(submission_id=submission.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=advance) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Run.objects.filter(kind=RunKind.GUARD).count() == 1


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("confirming", "guard", "confirming: guard rails"),
        ("confirming", "confirmation", "confirming: price"),
        ("confirming", "recheck", "confirming: price, measured again"),
        ("confirmed", "recheck", "confirmed: random re-measurement"),
        ("queued", "gate", "queued"),
        ("confirmed", None, "confirmed"),
    ],
)
def test_the_shown_stage_names_what_is_measured(state: str, kind: str | None, words: str) -> None:
    assert stage(state, kind) == words
