"""The emergency stop: stopped work waits in its state and continues automatically when the stop is lifted."""

import threading
from collections.abc import Callable

import pytest
from django.db import DatabaseError, connection, transaction

from benchmarks.evidence.signing import generate_key
from bounty.errors import BadRequest, BountyError, NotAllowed, NotLeasable, Stopped, WrongState
from bounty.models import (
    OPEN_RUN_STATES,
    Run,
    RunnerFailure,
    RunState,
    StateChange,
    StopSwitch,
    Submission,
    Switch,
    WaitingMerge,
)
from bounty.services import emergency as switches
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.emergency import is_stopped, lift, require_running, stop
from bounty.services.merges import merge
from bounty.services.reconcile import reconcile_runs
from bounty.services.reviews import review
from bounty.services.runners.calls import heartbeat
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(3, "step_3 = 33")


def press(world: World, switch: Switch, reason: str = "something is wrong") -> StopSwitch:
    return stop(actor=world.mira, switch=switch, reason=reason)


def release(world: World, switch: Switch) -> StopSwitch:
    return lift(actor=world.ruth, switch=switch, reason="it is right again")


def test_a_switch_says_who_stopped_what_why_and_when(world: World) -> None:
    assert [row.is_stopped for row in switches.switches()] == [False] * 3
    row = press(world, Switch.AWARDS, "a wrong rate")
    assert (row.is_stopped, row.actor, row.reason) == (True, world.mira, "a wrong rate")
    assert is_stopped(Switch.AWARDS) and not is_stopped(Switch.JUDGING) and not is_stopped(Switch.MERGES)
    with pytest.raises(Stopped, match=f"stopped by {world.mira.username}: a wrong rate"):
        require_running(Switch.AWARDS)
    release(world, Switch.AWARDS)
    require_running(Switch.AWARDS)
    history = StateChange.objects.filter(subject="stopswitch", subject_id="awards")
    assert [(change.new, change.actor) for change in history] == [
        ("stopped", world.mira),
        ("running", world.ruth),
    ]


def test_pressing_again_changes_nothing(world: World) -> None:
    press(world, Switch.MERGES, "first")
    assert press(world, Switch.MERGES, "second").reason == "first"
    release(world, Switch.MERGES)
    release(world, Switch.MERGES)
    assert StateChange.objects.filter(subject="stopswitch").count() == 2


def test_only_maintainers_press_and_they_say_why(world: World) -> None:
    with pytest.raises(NotAllowed):
        stop(actor=world.ann, switch=Switch.JUDGING, reason="I lost")
    with pytest.raises(NotAllowed):
        lift(actor=world.ann, switch=Switch.JUDGING)
    for switch, reason in ((Switch.JUDGING, "  "), ("everything", "x")):
        with pytest.raises(BadRequest):
            stop(actor=world.mira, switch=switch, reason=reason)
    with pytest.raises(DatabaseError), transaction.atomic():
        StopSwitch.objects.create(name="judging", is_stopped=True)
    assert not StopSwitch.objects.exists()


def test_stopped_judging_takes_runs_back_tells_the_runner_and_counts_no_attempt(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    lease = run.lease
    assert lease is not None
    press(world, Switch.JUDGING)
    run.refresh_from_db()
    assert (run.state, run.attempts_left) == (RunState.QUEUED, 3)
    beat = heartbeat(
        runner=world.runner, run_id=run.pk, lease=lease, stage="gating", pairs_done=3, pairs_max=48
    )
    assert beat.cancel is True
    with pytest.raises(NotLeasable, match="something is wrong"):
        world.lease()
    assert not RunnerFailure.objects.exists()
    assert reconcile_runs().woken == 0
    release(world, Switch.JUDGING)
    assert reconcile_runs().woken == 1  # at once: the wake-ups of before were for nothing
    for _ in range(3):
        press(world, Switch.JUDGING)
        release(world, Switch.JUDGING)
    world.gate(submission, 0.3)
    assert find_submission(submission.pk).state == "confirming"


def test_submissions_are_taken_in_while_judging_is_stopped(world: World) -> None:
    press(world, Switch.JUDGING)
    assert world.submit(world.ann, DIFF).state == "queued"


def test_a_stop_that_died_half_way_is_finished_by_beat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit(world.ann, DIFF)
    world.lease()

    def killed(**_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("bounty.services.emergency.recall_all", killed)
    with pytest.raises(KeyboardInterrupt):
        press(world, Switch.JUDGING)
    assert Run.objects.get().state == RunState.LEASED
    assert reconcile_runs().failed == []
    assert Run.objects.get().state == RunState.QUEUED


def test_while_awards_are_stopped_nothing_is_booked_and_the_submission_waits(world: World) -> None:
    submission = world.gate(world.submit(world.ann, DIFF), 0.3)
    press(world, Switch.AWARDS)
    submission = world.price(submission, 0.3)
    assert submission.state == "confirming"
    assert reconcile_runs().advanced == 0
    assert ledger.balance(world.ann).unvested == 0
    release(world, Switch.AWARDS)
    assert reconcile_runs().advanced == 1
    assert find_submission(submission.pk).state == "confirmed"
    assert ledger.balance(world.ann).unvested > 0


def test_while_awards_are_stopped_nothing_vests_and_the_merge_is_made(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    press(world, Switch.AWARDS)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    submission = merge(actor=world.mira, submission_id=submission.pk)
    assert (submission.state, submission.merged_at is not None) == ("accepted", True)
    assert reconcile_runs().advanced == 0
    assert ledger.balance(world.ann).available == 0
    release(world, Switch.AWARDS)
    assert reconcile_runs().advanced == 1
    assert find_submission(submission.pk).state == "vested"
    assert ledger.balance(world.ann).available > 0


def test_a_review_window_that_passes_while_awards_are_stopped_vests_when_they_continue(db: None) -> None:
    world = World(terms={"review_window_s": 0})
    submission = world.gate(world.submit(world.ann, DIFF), 0.3)
    press(world, Switch.AWARDS)
    submission = world.price(submission, 0.3)
    release(world, Switch.AWARDS)
    reconcile_runs()
    assert find_submission(submission.pk).state == "vested"


def test_while_merges_are_stopped_accepting_works_and_the_merge_waits(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    press(world, Switch.MERGES)
    submission = review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert submission.state == "accepted"
    for _ in range(2):
        waits = merge(actor=world.mira, submission_id=submission.pk)
        assert (waits.state, waits.merged_at) == ("accepted", None)
    assert WaitingMerge.objects.get().actor == world.mira
    assert reconcile_runs().merged == 0
    world.lineage.refresh_from_db()
    assert world.lineage.tip_id == world.tree.pk
    release(world, Switch.MERGES)
    assert reconcile_runs().merged == 1
    assert find_submission(submission.pk).state == "vested"
    world.lineage.refresh_from_db()
    assert world.lineage.tip_id == submission.candidate_tree_id
    assert not WaitingMerge.objects.exists()


def test_what_could_not_be_merged_anyway_does_not_wait(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    press(world, Switch.MERGES)
    with pytest.raises(WrongState):
        merge(actor=world.mira, submission_id=submission.pk)
    assert not WaitingMerge.objects.exists()


def test_a_waiting_merge_that_is_refused_later_waits_no_longer_and_says_why(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    press(world, Switch.MERGES)
    merge(actor=world.mira, submission_id=submission.pk)
    review(actor=world.mira, submission_id=submission.pk, decision="decline", comment="it breaks the build")
    release(world, Switch.MERGES)
    assert (reconcile_runs().merged, reconcile_runs().failed) == (0, [])
    assert not WaitingMerge.objects.exists()
    reasons = StateChange.objects.filter(subject="submission", subject_id=submission.pk).values_list(
        "reason", flat=True
    )
    assert any(reason.startswith("not merged:") for reason in reasons)


# -- Races: these commit, each caller in its own connection -------------------------------------------


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start the action in its own thread and connection; its result or refusal is put into the list."""
    results: list[object] = []

    def call() -> None:
        try:
            results.append(action())
        except BountyError as refusal:
            results.append(refusal)
        finally:
            connection.close()

    thread = threading.Thread(target=call)
    thread.start()
    return thread, results


@pytest.mark.django_db(transaction=True)
def test_a_stop_waits_for_the_lease_that_is_being_granted_and_then_takes_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.submit(world.ann, DIFF)
    asked, go_on = threading.Event(), threading.Event()

    def slow(switch: Switch) -> None:
        require_running(switch)
        asked.set()
        assert go_on.wait(20)

    monkeypatch.setattr("bounty.services.runners.calls.require_running", slow)
    leasing, leased = in_thread(world.lease)
    assert asked.wait(20)
    pressing, pressed = in_thread(lambda: press(world, Switch.JUDGING))
    pressing.join(0.5)
    assert pressing.is_alive() and not is_stopped(Switch.JUDGING)  # it waits for the lease's transaction
    go_on.set()
    leasing.join(20)
    pressing.join(20)
    assert isinstance(leased[0], Run) and isinstance(pressed[0], StopSwitch)
    run = Run.objects.get()
    assert (run.state, run.forgiven) == (RunState.QUEUED, 1)


@pytest.mark.django_db(transaction=True)
def test_many_runners_asking_while_it_is_stopped_leave_no_run_with_anyone() -> None:
    world = World()
    runners = [world.runner] + [world.add_runner(generate_key())[0] for _ in range(3)]
    for line in range(1, 5):
        world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
    threads = [in_thread(lambda runner=runner: world.lease(runner)) for runner in runners]
    threads.append(in_thread(lambda: press(world, Switch.JUDGING)))
    for thread, _ in threads:
        thread.join(30)
    assert not Run.objects.filter(state__in=OPEN_RUN_STATES).exists()
    assert set(Run.objects.values_list("state", flat=True)) == {"queued"}
    release(world, Switch.JUDGING)
    assert world.lease().state == RunState.LEASED


@pytest.mark.django_db(transaction=True)
def test_an_award_is_booked_before_the_stop_or_after_the_lift_but_never_in_between() -> None:
    world = World()
    submission = world.gate(world.submit(world.ann, DIFF), 0.3)
    world.judge(0.3)
    advance_submission(submission_id=submission.pk)
    world.judge(0.0)  # the guard rails hold: only the booking is left
    threads = [in_thread(lambda: advance_submission(submission_id=submission.pk)) for _ in range(3)]
    threads.append(in_thread(lambda: press(world, Switch.AWARDS)))
    for thread, _ in threads:
        thread.join(30)
    state_at_stop = Submission.objects.get(pk=submission.pk).state
    booked_at_stop = ledger.balance(world.ann).unvested
    assert (state_at_stop == "confirmed") == (booked_at_stop > 0)
    advance_submission(submission_id=submission.pk)
    assert ledger.balance(world.ann).unvested == booked_at_stop
    release(world, Switch.AWARDS)
    reconcile_runs()
    award = standing_award(submission)
    assert award is not None and award.amount_microcredits == ledger.balance(world.ann).unvested
    assert [invariant.name for invariant in audit() if not invariant.holds] == []
