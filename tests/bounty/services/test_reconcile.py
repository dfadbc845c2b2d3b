"""Repairs by beat: lost messages, unfinished steps, deadlines, and isolation of a broken row."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, transaction
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from benchmarks.evidence.signing import generate_key
from bounty import tasks
from bounty.limits import ORDER_WAIT
from bounty.models import Bounty, BountyState, Run, Submission
from bounty.services import reconcile as reconcile_module
from bounty.services.awards.advance import advance_submission
from bounty.services.reconcile import reconcile_runs
from bounty.services.submissions import find_submission
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.conftest import Outbox

DIFF = diff_of_line(3, "step_3 = 33")
WAKE = "benchmarks.worker.run_job"


def age(run: Run, seconds: int) -> None:
    then = timezone.now() - timedelta(seconds=seconds)
    Run.objects.filter(pk=run.pk).update(queued_at=then, woken_at=then)


def test_a_lost_wake_up_is_sent_again_but_not_every_second(
    world: World, outbox: Outbox, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    run = world.submit(world.ann, DIFF).runs.get()
    with django_capture_on_commit_callbacks(execute=True):
        assert reconcile_runs().woken == 0  # the first wake-up is fresh
    age(run, 6)
    with django_capture_on_commit_callbacks(execute=True):
        assert [reconcile_runs().woken for _ in range(3)] == [1, 0, 0]
    assert outbox.of(WAKE) == [str(run.pk)]
    assert outbox[0][2]["expires"] == 60


def test_only_as_many_wake_ups_are_sent_as_runners_are_idle(world: World) -> None:
    for line in (1, 2, 3):
        age(world.submit(world.ann, diff_of_line(line, f"step_{line} = 0")).runs.get(), 60)
    world.add_runner(generate_key())
    assert reconcile_runs().woken == 2
    Run.objects.update(woken_at=None)
    world.lease()
    assert reconcile_runs().woken == 1


def test_a_step_whose_message_was_lost_is_done_by_beat(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.judge(0.3)
    tasks.reconcile_runs()
    assert find_submission(submission.pk).state == "confirming"
    for _ in range(2):  # the confirmation and its guard rails
        assert find_submission(submission.pk).state == "confirming"
        world.judge(0.3)
        tasks.advance_submission(str(submission.pk))
    assert find_submission(submission.pk).state == "confirmed"


def test_a_deadline_closes_the_bounty_and_returns_its_escrow(world: World) -> None:
    before = ledger.totals().treasury
    Bounty.objects.filter(pk=world.bounty.pk).update(deadline_at=timezone.now() - timedelta(seconds=1))
    assert reconcile_runs().closed == 1
    world.bounty.refresh_from_db()
    assert world.bounty.state == BountyState.CLOSED
    assert ledger.totals().treasury == before + world.escrow


def test_one_broken_submission_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = world.submit(world.ann, DIFF), world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    for _ in range(2):
        world.judge(0.3)

    def step(*, submission_id: object) -> Submission:
        if submission_id == broken.pk:
            raise RuntimeError("a damaged row")
        return advance_submission(submission_id=sound.pk)

    monkeypatch.setattr(reconcile_module, "advance_submission", step)
    Run.objects.update(
        finished_at=timezone.now() - ORDER_WAIT
    )  # the later of a series waits no longer than that
    repairs = reconcile_runs()
    assert repairs.failed == [f"submission {broken.pk}"]
    assert find_submission(sound.pk).state == "confirming"


def test_a_bountys_rate_never_falls_and_its_suite_never_changes(world: World) -> None:
    bounty = Bounty.objects.filter(pk=world.bounty.pk)
    for change in (
        {"rate_microcredits_per_nat": world.rate - 1},
        {"suite": "other"},
        {"hardware": "h100"},
        {"state": "paused"},
        {"escrow_microcredits": 0},
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            bounty.update(**change)
    bounty.update(rate_microcredits_per_nat=world.rate + 1)


def test_the_admin_shows_everything_and_changes_nothing(world: World) -> None:
    world.vested(world.ann, DIFF)
    root = User(username="root", is_superuser=True, is_staff=True)
    root.set_unusable_password()
    root.save()
    client = Client()
    client.force_login(root)
    for name in (
        "bounty",
        "submission",
        "run",
        "runverdict",
        "evidence",
        "award",
        "runner",
        "dispute",
        "statechange",
    ):
        answer = client.get(f"/admin/bounty/{name}/")
        assert answer.status_code == 200, name
        assert client.get(f"/admin/bounty/{name}/add/").status_code == 403
    run = Run.objects.first()
    assert run is not None
    page = client.get(f"/admin/bounty/run/{run.pk}/change/").content.decode()
    assert run.nonce not in page
