"""A thousand deliveries, shuffled, doubled, a tenth lost: everything ends as GitHub has it, and everyone is told once."""

from collections import Counter
from random import Random

import pytest
from django.utils import timezone

from bounty.github.events.reconciler import reconcile
from bounty.github.reports.publishing import publish
from bounty.models import Bounty, Command, Delivery, Head, Installation, PullRequest, Report, Submission
from tests.bounty.github.pulls.hub_world import HubWorld, post
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, experts

PULLS, AUTHORS, ROUNDS, LOST = 40, 8, 5, 0.1
EVENTS = 1_000


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_shuffled_doubled_and_lost_deliveries(hub: HubWorld) -> None:
    """Forty pull requests with five heads each, asked for again and again; every eighth is closed."""
    Bounty.objects.update(max_attempts=PULLS * ROUNDS)
    people = [hub.standin.add_user(f"author-{number}") for number in range(AUTHORS)]
    pulls = []
    for number in range(PULLS):
        files = {EXPERTS_PATH: experts(step_3=f"step_3 = {100 + number}")}
        author = people[number % AUTHORS]  # heads are sealed up to a limit for each person and day
        pulls.append(hub.standin.open_pull_request(hub.repository, author, files))
    for turn in range(ROUNDS):
        for number, pull in enumerate(pulls):
            hub.standin.pass_time(seconds=1)
            value = f"step_4 = {1000 * turn + number}"
            hub.standin.push_to(
                pull, {EXPERTS_PATH: experts(step_3=f"step_3 = {100 + number}", step_4=value)}
            )
            for text in ("/judge", "/status", "as discussed"):
                hub.standin.comment(pull, hub.will, text)
    for pull in pulls[::8]:
        hub.standin.close_pull_request(pull)
    chance = Random(26)
    sent = hub.standin.deliveries.all
    rows = [row for row in sent if chance.random() > LOST] * 2
    assert len(rows) >= EVENTS
    chance.shuffle(rows)
    for begin in range(0, len(rows), 200):
        assert {post(row).status_code for row in rows[begin : begin + 200]} == {202}
        hub.work()
        for pull in PullRequest.objects.all():
            publish(pull.pk)
    assert Delivery.objects.count() <= len(sent) * (
        1 - LOST / 2
    )  # some were lost indeed, and none came twice
    for _ in range(40):  # GitHub takes so many a minute; each later look goes on from where it stopped
        hub.standin.pass_time(minutes=1)
        Installation.objects.update(quiet_until=None)
        Report.objects.exclude(due_at=None).update(due_at=timezone.now())
        reconcile()
        hub.work()
        for row in PullRequest.objects.all():
            publish(row.pk)
        is_told = not Report.objects.exclude(due_at=None).exists()
        if is_told and not Command.objects.filter(is_acknowledged=False).exists():
            break
    known = {row.number: row for row in PullRequest.objects.all()}
    assert {number: row.head_sha for number, row in known.items()} == {
        pull.number: pull.head_sha for pull in pulls
    }
    assert Command.objects.count() == 2 * PULLS * ROUNDS
    assert not Command.objects.exclude(state__in=["done", "refused"]).exists()
    queued = Submission.objects.filter(state="queued")
    assert queued.count() == PULLS - len(pulls[::8])
    assert set(queued.values_list("head__sha", flat=True)) <= set(Head.objects.values_list("sha", flat=True))
    for pull in pulls:
        assert len(hub.standin.app_comments(pull)) == 1, pull.number
    checks = Counter((run.head_sha, run.external_id) for run in hub.repository.checks)
    assert checks and set(checks.values()) == {1}
