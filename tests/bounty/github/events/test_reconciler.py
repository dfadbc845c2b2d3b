"""Lost, late, doubled and shuffled events: polling finds what they did not tell, and bookings wait for it a while."""

from datetime import timedelta
from random import Random

import pytest
from django.utils import timezone
from pytest_django import Settings

from bounty.github.events.deliveries import KEPT_FOR, forget_old, process_delivery, wake_waiting
from bounty.github.events.reconciler import poll, reconcile
from bounty.models import (
    Command,
    Delivery,
    GitHubRepository,
    Head,
    Installation,
    PullRequest,
    RepositoryBinding,
    Submission,
)
from bounty.services.series.sealed_order import booking_waits
from bounty.services.trees import create_lineage
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.github.pulls.hub_world import HubWorld, post
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, experts


def missing(hub: HubWorld) -> bool:
    return GitHubRepository.objects.get().events_missing_since is not None


def test_without_events_polling_finds_pull_requests_and_commands(hub: HubWorld, settings: Settings) -> None:
    settings.GITHUB_WEBHOOK_SECRETS = []
    pull = hub.opens()
    reconcile()
    hub.work()
    assert PullRequest.objects.get().needs_judge_command
    hub.standin.pass_time(seconds=5)
    hub.standin.comment(pull, hub.will, "/judge")
    reconcile()
    hub.work()
    assert Submission.objects.get().state == "queued"
    assert Head.objects.get().sealed_at == pull.created_at


def test_a_list_that_did_not_change_is_not_read_again(hub: HubWorld) -> None:
    hub.opens()
    for _ in range(3):
        poll(GitHubRepository.objects.select_related("installation").get())
    assert len(hub.standin.asked("GET", "/pulls")) == 3
    assert len(hub.standin.asked("GET", "/comments")) == 1


def test_commands_from_before_the_branch_was_bound_are_not_done(hub: HubWorld) -> None:
    pull = hub.opens()
    hub.standin.comment(pull, hub.mira, "/fund 5")
    RepositoryBinding.objects.update(created_at=timezone.now() + timedelta(seconds=5))
    reconcile()
    assert not Command.objects.exists()


def test_a_comment_that_was_edited_before_it_was_polled_is_no_command(hub: HubWorld) -> None:
    pull = hub.opens()
    comment = hub.standin.comment(pull, hub.mira, "hello")
    hub.standin.pass_time(seconds=5)
    hub.standin.edit_comment(pull, comment, "/fund 5", by=hub.repository.owner)
    reconcile()
    hub.work()
    assert not Command.objects.exists()


def test_a_head_found_by_polling_counts_from_then(hub: HubWorld) -> None:
    """An author who opens a pull request early and pushes a copy later gets no earlier place by a lost event."""
    hub.link(hub.cora, hub.world.ann)
    pull = hub.opens(line="step_3 = 1")
    hub.standin.pass_time(seconds=20)
    before = timezone.now()
    sha = hub.standin.push_to(pull, {EXPERTS_PATH: experts(step_3="step_3 = 33")})
    reconcile()
    assert Head.objects.get(sha=sha).sealed_at >= before


def test_what_cannot_be_polled_is_noted_and_bookings_wait_a_quarter_of_an_hour(hub: HubWorld) -> None:
    submission = hub.world.submit(hub.world.bob, diff_of_line(7, "step_7 = 77"))
    for speed_up in (0.3, 0.3):
        submission = hub.world.gate(submission, speed_up)
    hub.standin.slow_down(600)
    reconcile()
    assert missing(hub)
    submission = hub.world.guard(submission)
    assert submission.state == "confirming" and booking_waits(submission)
    hub.standin.slow_down(0)
    Installation.objects.update(quiet_until=None)
    reconcile()
    assert not missing(hub)
    assert hub.world.advance(submission).state == "confirmed"


@pytest.mark.parametrize("what", ["since", "measured"])
def test_the_wait_ends_after_a_quarter_of_an_hour(hub: HubWorld, what: str) -> None:
    submission = hub.world.submit(hub.world.bob, diff_of_line(7, "step_7 = 77"))
    for speed_up in (0.3, 0.3):
        submission = hub.world.gate(submission, speed_up)
    GitHubRepository.objects.update(events_missing_since=timezone.now())
    submission = hub.world.guard(submission)
    assert submission.state == "confirming"
    long_ago = timezone.now() - timedelta(minutes=15)
    if what == "since":
        GitHubRepository.objects.update(events_missing_since=long_ago)
    else:
        submission.runs.update(finished_at=long_ago)
    assert hub.world.advance(submission).state == "confirmed"


def test_a_time_of_missing_events_is_noted_once(hub: HubWorld) -> None:
    hub.standin.slow_down(600)
    reconcile()
    since = GitHubRepository.objects.get().events_missing_since
    reconcile()
    assert GitHubRepository.objects.get().events_missing_since == since


def test_deliveries_that_are_not_worked_off_count_as_missing(hub: HubWorld) -> None:
    hub.opens()
    for row in hub.standin.deliveries.all:
        post(row)
    Delivery.objects.update(received_at=timezone.now() - timedelta(minutes=2))
    reconcile()
    assert missing(hub)
    hub.work()
    reconcile()
    assert not missing(hub)


def test_one_repository_that_fails_does_not_keep_the_others_waiting(hub: HubWorld) -> None:
    gone = GitHubRepository.objects.create(github_id=1, full_name="octo/gone")
    other = RepositoryBinding.objects.get()
    second = create_lineage(actor=hub.world.mira, name="second", base_tree=hub.world.tree.pk)
    copy = RepositoryBinding(lineage=second, url=other.url, branch="x", folder="model", github=gone)
    copy.created_by = hub.world.mira
    copy.save()
    hub.opens()
    reconcile()
    assert PullRequest.objects.count() == 1
    assert GitHubRepository.objects.get(pk=1).events_missing_since is not None


def test_a_delivery_that_fails_is_tried_again(hub: HubWorld) -> None:
    """A comment comes before its pull request is known, while GitHub cannot be asked for it."""
    pull = hub.opens()
    hub.standin.comment(pull, hub.cora, "/status")
    row = hub.standin.deliveries.all[-1]
    assert row.event == "issue_comment"
    hub.standin.slow_down(60)
    hub.deliver([row])
    delivery = Delivery.objects.get()
    assert (delivery.done_at, delivery.attempts) == (None, 1) and "GitHub" in delivery.problem
    Delivery.objects.update(received_at=timezone.now() - timedelta(minutes=1))
    assert wake_waiting() == 1
    hub.standin.slow_down(0)
    Installation.objects.update(quiet_until=None)
    hub.work()
    delivery.refresh_from_db()
    assert delivery.done_at is not None and Command.objects.get().state == "done"


def test_a_payload_that_tells_nothing_is_done_and_says_so(hub: HubWorld) -> None:
    delivery = Delivery.objects.create(
        pk="00000000-0000-4000-8000-000000000001", event="pull_request", action="opened", payload={"a": 1}
    )
    process_delivery(delivery_id=delivery.pk)
    delivery.refresh_from_db()
    assert delivery.done_at is not None and "not understood" in delivery.problem


def test_done_deliveries_are_forgotten_after_a_month(hub: HubWorld) -> None:
    hub.opens()
    hub.deliver()
    assert forget_old() == 0
    Delivery.objects.update(received_at=timezone.now() - KEPT_FOR - timedelta(days=1))
    assert forget_old() > 0 and not Delivery.objects.exists()


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_doubled_and_lost_events_come_to_the_same(hub: HubWorld, seed: int) -> None:
    """Three pull requests with pushes, comments and a closing: all end as GitHub has them, and each command once."""
    pulls = []
    for number in range(3):
        pull = hub.opens(line=f"step_3 = {number + 100}")
        hub.standin.pass_time(seconds=3)
        hub.standin.comment(pull, hub.will, "/judge")
        hub.standin.push_to(pull, {EXPERTS_PATH: experts(step_4=f"step_4 = {number}")})
        hub.standin.comment(pull, hub.will, "/judge")
        hub.standin.set_draft(pull, number == 1)
        pulls.append(pull)
    hub.standin.pass_time(seconds=3)
    hub.standin.close_pull_request(pulls[2])
    chance = Random(seed)
    rows = [row for row in hub.standin.deliveries.all if chance.random() > 0.1] * 2
    chance.shuffle(rows)
    for row in rows:
        hub.deliver([row])
    hub.standin.pass_time(seconds=3)
    reconcile()
    hub.work()
    hub.work()
    found = {row.number: row for row in PullRequest.objects.all()}
    for pull in pulls:
        row = found[pull.number]
        assert (row.head_sha, row.is_draft) == (pull.head_sha, pull.is_draft)
        assert row.state == ("closed" if pull is pulls[2] else "open")
    assert Command.objects.count() == 6
    assert not Command.objects.filter(state="waiting").exists()
    open_ones = Submission.objects.filter(state="queued")
    assert sorted(open_ones.values_list("head__sha", flat=True)) == sorted(
        pull.head_sha for pull in pulls[:2]
    )
