"""Within a series, sealed order decides who is booked first and whose escrow is reserved, whoever is measured first."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.limits import ORDER_WAIT
from bounty.models import Award, AwardState, NextStep, OutOfOrder, Run, RunKind, Runner, RunState, Submission
from bounty.models import SubmissionState as S
from bounty.services.awards.lifecycle import standing_award
from bounty.services.disputes import file_dispute
from bounty.services.reconcile import reconcile_runs
from bounty.services.runners.maintenance import quarantine
from bounty.services.submissions import find_submission, withdraw
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.conftest import Outbox

FIRST = diff_of_line(3, "step_3 = 33")
SECOND = diff_of_line(7, "step_7 = 77")
ADVANCE = "bounty.tasks.advance_submission"


@pytest.fixture
def second(world: World) -> Runner:
    """Another runner, so that two runs are measured at a time."""
    return world.add_runner(generate_key())[0]


def ended_ago(submission: Submission, ago: timedelta) -> None:
    """Mark every finished run of the submission as ended so long ago."""
    Run.objects.filter(submission=submission, state=RunState.FINISHED).update(
        finished_at=timezone.now() - ago
    )


def measured_before(world: World, second: Runner) -> tuple[Submission, Submission, Run]:
    """Ann's is sealed first; Bob's gate, price and guard rails end while Ann's confirmation is still measured."""
    ann, bob = world.submit(world.ann, FIRST), world.submit(world.bob, SECOND)
    gates = world.lease(), world.lease(second)
    assert [run.submission_id for run in gates] == [ann.pk, bob.pk]
    for run in gates:
        world.commit(run)
        world.finish(run, 0.3)
    for submission in (ann, bob):
        world.advance(submission)
    slow = world.lease()
    assert slow.submission_id == ann.pk
    world.commit(slow)
    for _ in range(2):
        run = world.lease(second)
        assert run.submission_id == bob.pk
        world.commit(run)
        world.finish(run, 0.3 if run.kind == RunKind.CONFIRMATION else 0.0)
        world.advance(bob)
    return find_submission(ann.pk), find_submission(bob.pk), slow


def in_order() -> bool:
    return [invariant.name for invariant in audit() if not invariant.holds] == []


def test_what_was_sealed_first_is_booked_first_although_it_is_measured_later(
    world: World, second: Runner
) -> None:
    ann, bob, slow = measured_before(world, second)
    assert bob.state == S.CONFIRMING  # measured, and waiting
    reconcile_runs()
    assert find_submission(bob.pk).state == S.CONFIRMING

    world.finish(slow, 0.3)
    world.advance(ann)
    ann = world.guard(ann)
    award = standing_award(ann)
    assert ann.state == S.CONFIRMED and award is not None and award.confirmation_run == slow
    reconcile_runs()  # beat finds what waited: it is priced against the tree that was booked first
    again = bob.runs.get(state=RunState.QUEUED)
    assert (again.kind, again.base_tree_id) == (RunKind.CONFIRMATION, ann.candidate_tree_id)
    bob = world.price(bob, 0.05)
    award = standing_award(bob)
    assert bob.state == S.CONFIRMED and award is not None and (award.log_ppm_bound or 0) < 60_000
    assert not OutOfOrder.objects.exists()
    assert in_order()


def test_the_wait_ends_when_the_earlier_one_earns_nothing(world: World, second: Runner) -> None:
    ann, bob, slow = measured_before(world, second)
    world.finish(slow, 0.0)
    world.advance(ann)
    assert find_submission(ann.pk).verdict_kind == "no_gain"
    assert world.advance(bob).state == S.CONFIRMED
    assert bob.runs.filter(kind=RunKind.CONFIRMATION).count() == 1  # its price still counts
    assert not OutOfOrder.objects.exists()


def test_the_decision_of_the_earlier_one_wakes_the_later(
    world: World, second: Runner, outbox: Outbox, django_capture_on_commit_callbacks: object
) -> None:
    ann, bob, slow = measured_before(world, second)
    world.finish(slow, 0.0)
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]  # pytest-django's fixture
        world.advance(ann)
    assert outbox.of(ADVANCE) == [str(bob.pk)]


def test_a_price_waits_at_most_two_hours_and_then_the_earlier_one_is_priced_against_it(
    world: World, second: Runner
) -> None:
    ann, bob, slow = measured_before(world, second)
    ended_ago(bob, ORDER_WAIT - timedelta(minutes=1))
    reconcile_runs()
    assert find_submission(bob.pk).state == S.CONFIRMING
    ended_ago(bob, ORDER_WAIT)
    reconcile_runs()
    bob = find_submission(bob.pk)
    assert bob.state == S.CONFIRMED
    assert [(row.later_id, row.earlier_id) for row in OutOfOrder.objects.all()] == [(bob.pk, ann.pk)]

    world.finish(slow, 0.3)
    ann = world.advance(ann)
    again = ann.runs.get(state=RunState.QUEUED)
    assert (again.kind, again.base_tree_id) == (RunKind.CONFIRMATION, bob.candidate_tree_id)
    ann = world.price(ann, 0.1)
    award = standing_award(ann)
    assert ann.state == S.CONFIRMED and award is not None and (award.log_ppm_bound or 0) < 110_000
    assert in_order()


def test_both_pages_and_rest_say_who_was_booked_out_of_order(world: World, second: Runner) -> None:
    ann, bob, _ = measured_before(world, second)
    ended_ago(bob, ORDER_WAIT)
    world.advance(bob)
    pages = {one.pk: Client().get(f"/submissions/{one.pk}/").content.decode() for one in (ann, bob)}
    assert f'<a href="/submissions/{bob.pk}/">' in pages[ann.pk]
    assert "was booked first, although it was sealed later" in pages[ann.pk]
    assert f'<a href="/submissions/{ann.pk}/">' in pages[bob.pk]
    assert "was booked before" in pages[bob.pk]
    rest = {one.pk: Client().get(f"/api/v1/submissions/{one.pk}/").json()["order"] for one in (ann, bob)}
    assert rest[ann.pk] == {"sealed_earlier": [], "booked_before": [], "booked_after": [str(bob.pk)]}
    assert rest[bob.pk] == {"sealed_earlier": [], "booked_before": [str(ann.pk)], "booked_after": []}


def test_whom_it_waits_for_is_told_from_the_first_second_so_waiting_betrays_no_gain(world: World) -> None:
    ann, bob = world.submit(world.ann, FIRST), world.submit(world.bob, SECOND)
    told = Client().get(f"/api/v1/submissions/{bob.pk}/").json()["order"]
    assert told["sealed_earlier"] == [str(ann.pk)]
    page = Client().get(f"/submissions/{bob.pk}/").content.decode()
    assert f'<a href="/submissions/{ann.pk}/">' in page and "sealed earlier" in page
    assert "sealed earlier" not in Client().get(f"/submissions/{ann.pk}/").content.decode()


@pytest.mark.parametrize("obstacle", ["suspicion", "dispute", "quarantine", "withdrawal"])
def test_what_may_last_is_not_waited_for(world: World, second: Runner, obstacle: str) -> None:
    ann, bob, slow = measured_before(world, second)
    if obstacle == "suspicion":
        Submission.objects.filter(pk=ann.pk).update(state=S.JUDGED, verdict_kind="suspicious")
    elif obstacle == "dispute":
        Submission.objects.filter(pk=ann.pk).update(state=S.JUDGED, verdict_kind="no_gain")
        file_dispute(actor=world.ann, submission_id=ann.pk, text="It is faster here.")
    elif obstacle == "quarantine":
        quarantine(actor=world.mira, name=world.runner.name, reason="it drifts")
        slow.refresh_from_db()
        assert slow.state == RunState.QUEUED
    else:
        Submission.objects.filter(pk=ann.pk).update(state=S.QUEUED)
        Run.objects.filter(kind=RunKind.GATE, submission=ann).update(submission=bob, sequence=9)
        withdraw(actor=world.ann, submission_id=ann.pk)
    assert world.advance(bob).state == S.CONFIRMED
    is_open = obstacle != "withdrawal"
    assert OutOfOrder.objects.filter(later=bob, earlier=ann).exists() == is_open


def test_escrow_is_reserved_in_sealed_order(world: World, second: Runner) -> None:
    """Bob's gate ends first and would take the whole escrow; Ann's, sealed earlier, gets its part first."""
    bounty = world.open(title="Small", escrow_microcredits=8_000_000)
    ann, bob = world.submit(world.ann, FIRST, bounty), world.submit(world.bob, SECOND, bounty)
    slow, fast = world.lease(), world.lease(second)
    for run in (slow, fast):
        world.commit(run)
    world.finish(fast, 0.5)
    bob = world.advance(bob)
    assert (bob.state, bob.next_step) == (S.JUDGED, NextStep.RESERVE)
    world.finish(slow, 0.3)
    ann, bob = world.advance(ann), world.advance(bob)
    amounts = {award.submission_id: award.reserved_microcredits for award in Award.objects.all()}
    assert ann.state == bob.state == S.CONFIRMING
    assert amounts[ann.pk] > 7_000_000 and amounts[bob.pk] == 8_000_000 - amounts[ann.pk]
    assert in_order()


def test_a_reservation_waits_at_most_two_hours(world: World, second: Runner) -> None:
    world.submit(world.ann, FIRST)
    bob = world.submit(world.bob, SECOND)
    world.lease()
    fast = world.lease(second)
    world.commit(fast)
    world.finish(fast, 0.3)
    bob = world.advance(bob)
    assert bob.next_step == NextStep.RESERVE
    ended_ago(bob, ORDER_WAIT)
    reconcile_runs()
    assert find_submission(bob.pk).state == S.CONFIRMING


def test_another_bounty_of_the_series_has_its_own_escrow(world: World, second: Runner) -> None:
    other = world.open(title="The same series")
    world.submit(world.ann, FIRST)
    bob = world.submit(world.bob, SECOND, other)
    world.lease()
    fast = world.lease(second)
    world.commit(fast)
    world.finish(fast, 0.3)
    assert world.advance(bob).state == S.CONFIRMING


def test_credits_that_return_go_to_the_one_sealed_earlier(world: World, second: Runner) -> None:
    bounty = world.open(title="Small", escrow_microcredits=6_000_000)
    lines = {11: world.ruth, 3: world.ann, 7: world.bob}
    cara, ann, bob = (
        world.submit(who, diff_of_line(line, f"step_{line} = 0"), bounty) for line, who in lines.items()
    )
    gate_of = {run.submission_id: run for run in (world.lease(), world.lease(second))}
    for submission in (cara, ann):
        world.commit(gate_of[submission.pk])
        world.finish(gate_of[submission.pk], 0.35)
        world.advance(submission)
    refused, last = world.lease(), world.lease(second)
    assert (refused.submission_id, last.submission_id) == (cara.pk, bob.pk)
    world.commit(last)
    world.finish(last, 0.35)
    bob = world.advance(bob)
    assert find_submission(ann.pk).next_step == bob.next_step == NextStep.AWAIT_ESCROW
    world.commit(refused)
    world.finish(refused, 0.0)  # not confirmed: the reservation comes back
    world.advance(cara)
    assert world.advance(bob).next_step == NextStep.AWAIT_ESCROW  # although its message came first
    assert find_submission(ann.pk).state == S.CONFIRMING
    assert in_order()


def test_runs_of_a_series_start_in_sealed_order_also_those_of_a_busy_person(world: World) -> None:
    """Ann had many runs within the hour; what she sealed first still starts first. Its price comes before Bob's gate."""
    for line in (1, 2):
        world.gate(world.submit(world.ann, diff_of_line(line, f"step_{line} = 0")), 0.0, units=12)
    ann, bob = world.submit(world.ann, FIRST), world.submit(world.bob, SECOND)
    for kind in (RunKind.GATE, RunKind.CONFIRMATION, RunKind.GUARD):
        run = world.judge(0.0 if kind == RunKind.GUARD else 0.3)
        assert (run.submission_id, run.kind) == (ann.pk, kind)
        world.advance(ann)
    assert world.lease().submission_id == bob.pk


def test_awards_keep_their_state_when_the_wait_is_looked_at_twice(world: World, second: Runner) -> None:
    ann, bob, _ = measured_before(world, second)
    ended_ago(bob, ORDER_WAIT)
    for _ in range(3):
        world.advance(bob)
    assert Award.objects.filter(submission=bob, state=AwardState.UNVESTED).count() == 1
    assert OutOfOrder.objects.count() == 1
    assert find_submission(ann.pk).state == S.CONFIRMING
