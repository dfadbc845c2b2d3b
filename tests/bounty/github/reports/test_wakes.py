"""Changes of a submission, an award, a dispute or a new price wake the reports of its pull request, and of no other."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoCaptureOnCommitCallbacks

from bounty.models import Bounty, PullRequest
from bounty.services.disputes import file_dispute
from bounty.services.reviews import review
from bounty.services.transitions import note
from bounty.services.wakeups import REPORT
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.conftest import Outbox
from tests.bounty.github.reports.room import Room

pytestmark = pytest.mark.django_db


def test_each_step_of_a_head_wakes_its_report(
    room: Room, outbox: Outbox, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    head = room.submitted()
    assert head.submission is not None
    woken = []
    for speed_up in (0.3, 0.3, 0.0):
        outbox.clear()
        with django_capture_on_commit_callbacks(execute=True):
            room.world.gate(head.submission, speed_up)
        woken.append(set(outbox.of(REPORT)))
    # The gate's verdict, the price that only orders guard rails, the booking.
    assert woken == [{str(room.pull_request.pk)}, set(), {str(room.pull_request.pk)}]
    outbox.clear()
    with django_capture_on_commit_callbacks(execute=True):
        file_dispute(actor=room.world.ann, submission_id=head.submission.pk, text="It is worth more.")
    assert outbox.of(REPORT) == [str(room.pull_request.pk)]


def test_the_first_of_two_acceptances_wakes_the_report_though_no_state_changes(
    room: Room, outbox: Outbox, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    head = room.confirmed()
    assert head.submission is not None
    Bounty.objects.update(min_reviewers=2)
    outbox.clear()
    with django_capture_on_commit_callbacks(execute=True):
        accepted = review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    assert accepted.state == "confirmed" and outbox.of(REPORT) == [str(room.pull_request.pk)]


def test_nothing_is_woken_for_a_submission_without_a_head(
    room: Room, outbox: Outbox, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        room.world.confirmed(room.world.bob, diff_of_line(5, "step_5 = 55"))
    assert outbox.of(REPORT) == []


def test_nothing_is_woken_before_the_commit(room: Room, outbox: Outbox) -> None:
    head = room.submitted()
    note(head.submission, old="queued", new="queued", reason="a test")
    assert outbox.of(REPORT) == []


def test_a_change_costs_one_query_more_and_of_other_rows_none(room: Room) -> None:
    submission = room.world.submit(room.world.bob, diff_of_line(5, "step_5 = 55"))
    costs = []
    for row in (submission, room.world.bounty):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            note(row, old="", new=row.state, reason="a test")
        costs.append([query["sql"].split()[0] for query in queries.captured_queries])
    assert costs == [["INSERT", "SELECT"], ["INSERT"]]


def test_another_pull_request_is_not_woken(
    room: Room, outbox: Outbox, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    other = room.open()
    room.head(of=other)
    head = room.submitted()
    outbox.clear()
    with django_capture_on_commit_callbacks(execute=True):
        note(head.submission, old="queued", new="queued", reason="a test")
    assert PullRequest.objects.count() == 2
    assert outbox.of(REPORT) == [str(room.pull_request.pk)]
