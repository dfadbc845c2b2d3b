"""A runner that waits for its device, in the queue, on pages and over REST."""

from datetime import timedelta

from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from benchmarks.evidence.signing import generate_key
from bounty.models import Run, Runner
from bounty.pages.progress import progress_of
from bounty.services.runners.device_waits import is_waiting, note_device_wait
from bounty.services.runs.queues import queue_place
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.services.runs.test_queues import at_work, judged_in

DIFF = diff_of_line(1, "step_1 = 0")
PATH = "/api/v1/runner/waiting/"


def says_that_it_waits(world: World, token: str | None = None) -> int:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token or world.token}")
    return client.post(PATH).status_code


def page(path: str) -> str:
    return Client().get(path).content.decode()


def test_a_queue_says_that_its_runner_waits_instead_of_a_time_that_never_comes(world: World) -> None:
    judged_in(world, 7)
    at_work(world.runner)
    submission = world.submit(world.ann, DIFF)
    assert progress_of(submission, world.mira).detail == "It is next. Starts now, ends in about 7 s."
    assert says_that_it_waits(world) == 204
    place = queue_place(submission.runs.get())
    assert place is not None
    assert (place.position, place.starts_in_s, place.ends_in_s, place.waiting_for_device) == (
        0,
        None,
        None,
        1,
    )
    assert progress_of(submission, world.mira).detail == (
        "It is next. The runner waits for its device: other work on the same machine uses it. The start cannot be "
        "estimated."
    )
    queue = APIClient().get(f"/api/v1/submissions/{submission.pk}/").json()["queue"]
    assert (queue["ends_in_s"], queue["waiting_for_device"]) == (None, 1)


def test_the_runners_pages_and_rest_do_not_call_it_idle(world: World) -> None:
    at_work(world.runner)
    assert "idle" in page("/runners/")
    says_that_it_waits(world)
    html = page("/runners/")
    assert "waiting for the device" in html and "idle" not in html
    assert "waiting for the device since" in page(f"/runners/{world.runner.name}/")
    client = APIClient()
    client.force_authenticate(world.mira)
    assert client.get(f"/api/v1/runners/{world.runner.name}/").json()["is_waiting_for_device"] is True


def test_another_runner_is_still_counted_on(world: World) -> None:
    judged_in(world, 40)
    other, token = world.add_runner(generate_key(), host="two")
    at_work(world.runner, other)
    run = world.submit(world.ann, DIFF).runs.get()
    says_that_it_waits(world)
    place = queue_place(run)
    assert place is not None and (place.runners, place.starts_in_s, place.ends_in_s) == (2, 0, 40)
    says_that_it_waits(world, token)
    submission = run.submission
    assert (
        submission is not None
        and "All 2 runners wait for their devices" in progress_of(submission, world.mira).detail
    )


def test_the_wait_ends_with_the_next_request_for_work(world: World) -> None:
    says_that_it_waits(world)
    world.runner.refresh_from_db()
    assert is_waiting(world.runner)
    world.submit(world.ann, DIFF)
    world.lease()
    world.runner.refresh_from_db()
    assert not is_waiting(world.runner) and world.runner.waits_for_device_since is None


def test_a_runner_that_fell_silent_is_not_believed_for_ever(world: World) -> None:
    note_device_wait(runner=world.runner)
    long_ago = timezone.now() - timedelta(minutes=5)
    Runner.objects.filter(pk=world.runner.pk).update(last_seen_at=long_ago, waits_for_device_since=long_ago)
    world.runner.refresh_from_db()
    assert not is_waiting(world.runner)
    note_device_wait(runner=world.runner)
    assert world.runner.waits_for_device_since is not None and world.runner.waits_for_device_since > long_ago


def test_since_when_it_waits_stays_while_it_says_so_again(world: World) -> None:
    note_device_wait(runner=world.runner)
    since = world.runner.waits_for_device_since
    note_device_wait(runner=world.runner)
    world.runner.refresh_from_db()
    assert world.runner.waits_for_device_since == since


def test_only_a_runner_with_its_token_says_that_it_waits(world: World) -> None:
    assert APIClient().post(PATH).status_code == 401
    client = APIClient()
    client.force_authenticate(world.mira)
    assert client.post(PATH).status_code in (401, 403)
    assert not Runner.objects.filter(waits_for_device_since__isnull=False).exists()


def test_a_run_that_takes_longer_than_usual_has_no_estimate(world: World) -> None:
    judged_in(world, 7)
    at_work(world.runner)
    world.submit(world.ann, DIFF)
    running = world.lease()
    Run.objects.filter(pk=running.pk).update(leased_at=timezone.now() - timedelta(minutes=6))
    waiting = world.submit(world.bob, diff_of_line(2, "step_2 = 0"))
    assert progress_of(waiting, world.mira).detail == "It is next."
    running.refresh_from_db()
    place = queue_place(running)
    assert place is not None and place.ends_in_s is None
