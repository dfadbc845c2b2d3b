"""A run's place in the queue, and the estimates of its start and end."""

from datetime import timedelta
from uuid import uuid4

from django.utils import timezone
from rest_framework.test import APIClient

from benchmarks.evidence.signing import generate_key
from bounty.limits import NEW_ACCOUNT_WAIT
from bounty.models import Run, Runner, RunState
from bounty.pages.progress import progress_of
from bounty.services.emergency import stop
from bounty.services.runners.maintenance import calibrate
from bounty.services.runs.queues import order_for, queue_place, waiting_order
from bounty.services.submissions import withdraw
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line, make_user


def took(run: Run, seconds: float) -> None:
    """Mark the run as just judged in this many seconds."""
    end = timezone.now()
    Run.objects.filter(pk=run.pk).update(leased_at=end - timedelta(seconds=seconds), finished_at=end)


def at_work(*runners: Runner) -> None:
    Runner.objects.filter(pk__in=[runner.pk for runner in runners]).update(last_seen_at=timezone.now())


def judged_in(world: World, *seconds: float) -> None:
    """So many gate runs of Ruth's, each judged in that time."""
    for line, span in enumerate(seconds, 7):
        world.submit(world.ruth, diff_of_line(line, f"step_{line} = 0"))
        took(world.judge(0.0, units=12), span)


def test_without_runners_or_history_only_the_place_is_known(world: World) -> None:
    run = world.submit(world.ann, diff_of_line(1, "step_1 = 0")).runs.get()
    place = queue_place(run)
    assert place is not None
    assert (place.position, place.runners, place.starts_in_s, place.ends_in_s) == (0, 0, None, None)
    at_work(world.runner)
    place = queue_place(run)
    assert place is not None and (place.runners, place.starts_in_s, place.ends_in_s) == (1, 0, None)


def test_the_median_of_earlier_runs_of_the_sort_is_the_estimate(world: World) -> None:
    judged_in(world, 10, 30, 500)
    at_work(world.runner)
    first = world.submit(world.ann, diff_of_line(1, "step_1 = 0")).runs.get()
    second = world.submit(world.bob, diff_of_line(2, "step_2 = 0")).runs.get()
    places = [queue_place(run) for run in (first, second)]
    assert [(p.position, p.starts_in_s, p.ends_in_s) for p in places if p] == [(0, 0, 30), (1, 30, 60)]


def test_other_suites_and_presets_tell_nothing(world: World) -> None:
    judged_in(world, 30)
    at_work(world.runner)
    other = world.open(title="Larger", preset="standard")
    run = world.submit(world.ann, diff_of_line(1, "step_1 = 0"), other).runs.get()
    place = queue_place(run)
    assert place is not None and place.ends_in_s is None


def test_what_a_running_run_still_needs_is_waited_for(world: World) -> None:
    judged_in(world, 40)
    at_work(world.runner)
    world.submit(world.ann, diff_of_line(1, "step_1 = 0"))
    running = world.lease()
    Run.objects.filter(pk=running.pk).update(leased_at=timezone.now() - timedelta(seconds=15))
    waiting = world.submit(world.bob, diff_of_line(2, "step_2 = 0")).runs.get()
    place = queue_place(waiting)
    assert place is not None and place.starts_in_s is not None and place.ends_in_s is not None
    assert 20 <= place.starts_in_s <= 25 and place.ends_in_s - place.starts_in_s == 40
    running.refresh_from_db()
    place = queue_place(running)
    assert place is not None and place.position is None
    assert place.starts_in_s == 0 and place.ends_in_s is not None and 20 <= place.ends_in_s <= 25


def test_a_second_runner_halves_the_wait(world: World) -> None:
    judged_in(world, 40)
    other, _ = world.add_runner(generate_key())
    at_work(world.runner, other)
    runs = [world.submit(world.ann, diff_of_line(n, f"step_{n} = 0")).runs.get() for n in (1, 2, 3)]
    starts = [place.starts_in_s for run in runs if (place := queue_place(run)) is not None]
    assert starts == [0, 0, 40]


def test_a_finished_run_has_no_place(world: World) -> None:
    judged_in(world, 40)
    assert queue_place(Run.objects.get()) is None


def test_a_runner_is_given_its_own_runs_first(world: World) -> None:
    person = world.submit(world.ann, diff_of_line(1, "step_1 = 0")).runs.get()
    _, (own,) = calibrate(actor=world.mira, name=world.runner.name)
    other, _ = world.add_runner(generate_key())
    assert order_for(world.runner) == [own.pk, person.pk]
    assert order_for(other) == [person.pk]
    world.runner.state, world.runner.quarantine_cause = "quarantined", "drift"
    assert order_for(world.runner) == [own.pk]
    place = queue_place(own)
    assert place is not None and (place.position, place.runners) == (0, 1)


def known(person: User) -> None:
    """Let a person have had a run long ago."""
    run = Run.objects.get(submission__submitter=person)
    run.pk, run.sequence, run.state, run.attempt = uuid4(), 2, RunState.LOST, 1
    run.lease_expires_at = timezone.now() - timedelta(days=1)
    run.save(force_insert=True)


def test_lost_and_withdrawn_runs_count_in_a_persons_load(world: World) -> None:
    """Starting runs and taking them back is no way to be next again."""
    other = world.open(title="Elsewhere", suite="decode")
    for line in (1, 2):
        submission = world.submit(world.ann, diff_of_line(line, f"step_{line} = 0"))
        world.commit(world.lease())
        withdraw(actor=world.ann, submission_id=submission.pk)
    again = world.submit(world.ann, diff_of_line(3, "step_3 = 0"))
    bob = world.submit(world.bob, diff_of_line(4, "step_4 = 0"), other)
    known(world.bob)
    assert waiting_order(hardware="cpu") == [bob.runs.get(sequence=1).pk, again.runs.get().pk]
    Run.objects.filter(state=RunState.LOST).update(forgiven=1)  # the platform itself ended them
    assert waiting_order(hardware="cpu")[0] == again.runs.get().pk


def test_new_accounts_let_those_who_already_wait_go_first_but_only_so_far(world: World) -> None:
    bounties = [world.open(title=suite, suite=suite) for suite in ("decode", "prefill", "moe_backward")]
    judged = world.submit(world.ann, diff_of_line(1, "step_1 = 0"))
    world.gate(judged, 0.0)
    ann = world.submit(world.ann, diff_of_line(2, "step_2 = 0")).runs.get()
    new = [
        world.submit(make_user("new"), diff_of_line(line, f"step_{line} = 0"), bounty).runs.get()
        for line, bounty in enumerate(bounties, 3)
    ]
    assert waiting_order(hardware="cpu") == [ann.pk, *(run.pk for run in new)]
    assert world.lease().pk == ann.pk
    assert set(Run.objects.filter(pk__in=[run.pk for run in new]).values_list("let_by", flat=True)) == {1}


def test_a_new_account_waits_ten_minutes_at_most(world: World) -> None:
    other = world.open(title="Elsewhere", suite="decode")
    world.gate(world.submit(world.ann, diff_of_line(1, "step_1 = 0")), 0.0)
    ann = world.submit(world.ann, diff_of_line(2, "step_2 = 0")).runs.get()
    new = world.submit(world.bob, diff_of_line(3, "step_3 = 0"), other).runs.get()
    assert waiting_order(hardware="cpu") == [ann.pk, new.pk]
    Run.objects.filter(pk=new.pk).update(let_by=1, let_by_since=timezone.now() - NEW_ACCOUNT_WAIT)
    assert waiting_order(hardware="cpu") == [new.pk, ann.pk]
    Run.objects.filter(pk=new.pk).update(let_by=5, let_by_since=timezone.now())
    assert waiting_order(hardware="cpu") == [new.pk, ann.pk]


def test_rest_and_the_page_tell_place_and_time(world: World) -> None:
    judged_in(world, 40)
    at_work(world.runner)
    submission = world.submit(world.ann, diff_of_line(1, "step_1 = 0"))
    later = world.submit(world.ann, diff_of_line(2, "step_2 = 0"))
    client, anybody = APIClient(), APIClient()
    client.force_authenticate(world.mira)
    expected = {"position": 1, "runners": 1, "starts_in_s": 40, "ends_in_s": 80, "waiting_for_device": 0}
    assert client.get(f"/api/v1/submissions/{later.pk}/").json()["queue"] == expected
    assert client.get(f"/api/v1/runs/{later.runs.get().pk}/").json()["queue"] == expected
    shown = anybody.get(f"/api/v1/submissions/{later.pk}/").json()["queue"]
    assert shown == {**expected, "ends_in_s": None}  # how long it takes would tell which run it is
    assert progress_of(submission, world.mira).detail == "It is next. Starts now, ends in about 40 s."
    assert (
        progress_of(later, world.mira).detail
        == "1 ahead of it in the queue. Starts in about 40 s, ends in about 80 s."
    )
    run = world.lease()
    assert run.state == RunState.LEASED
    assert "It ends in about" in progress_of(submission, world.mira).detail
    assert client.get(f"/api/v1/submissions/{submission.pk}/").json()["queue"]["position"] is None


def test_nothing_is_estimated_while_judging_is_stopped(world: World) -> None:
    judged_in(world, 40)
    at_work(world.runner)
    run = world.submit(world.ann, diff_of_line(1, "step_1 = 0")).runs.get()
    stop(actor=world.mira, switch="judging", reason="a leak")
    place = queue_place(run)
    assert place is not None and (place.position, place.starts_in_s, place.ends_in_s) == (0, None, None)
