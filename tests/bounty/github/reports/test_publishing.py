"""What a pull request is told, sent to the stand-in over HTTP: one comment, one check run a head, whatever happens."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from bounty.github.pulls.sealing import NOTHING_CHANGED
from bounty.github.reports.publishing import publish, publish_due
from bounty.models import Head, HeadState, Installation, InstallationState, Report
from bounty.services.awards.lifecycle import reverse
from bounty.services.disputes import file_dispute
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from tests.bounty.github.reports.hosted import Hosted

pytestmark = pytest.mark.django_db


def test_one_comment_and_one_check_run_from_the_first_head_to_the_paid_award(hosted: Hosted) -> None:
    head = hosted.submitted()
    assert head.submission is not None
    hosted.publish()
    assert hosted.checks == [("Gainshare", None)] and "Being judged" in hosted.comments[0]
    for speed_up in (0.3, 0.3, 0.0):
        hosted.world.gate(head.submission, speed_up)
        hosted.publish()
    assert hosted.checks == [("Gainshare", "success")]
    review(actor=hosted.world.ruth, submission_id=head.submission.pk, decision="accept")
    hosted.publish()
    merge(actor=hosted.world.mira, submission_id=head.submission.pk)
    hosted.publish()
    assert len(hosted.comments) == 1 and "the award has vested" in hosted.comments[0]
    assert hosted.checks == [("Gainshare", "success")]


def test_what_has_not_changed_is_not_sent_again(hosted: Hosted) -> None:
    hosted.confirmed()
    for _ in range(6):
        hosted.publish()
        hosted.later(3600)
        publish_due()
    assert hosted.writes() == 2  # one comment and one check run


def test_a_final_check_run_is_never_edited(hosted: Hosted) -> None:
    """The tempting trap: a green check run that is edited to red. What comes later is another check run."""
    head = hosted.confirmed()
    assert head.submission is not None
    hosted.publish()
    green = hosted.there.checks[0]
    before = (green.conclusion, dict(green.output), green.completed_at)
    review(actor=hosted.world.ruth, submission_id=head.submission.pk, decision="accept")
    merge(actor=hosted.world.mira, submission_id=head.submission.pk)
    reverse(
        actor=hosted.world.ruth, submission=find_submission(head.submission.pk), reason="It caches answers."
    )
    hosted.publish()
    assert hosted.checks == [("Gainshare", "success"), ("Gainshare: after the verdict", "failure")]
    assert (green.conclusion, dict(green.output), green.completed_at) == before
    assert hosted.standin.asked("PATCH", "/check-runs/") == []
    assert "Its award was taken back" in hosted.comments[0] and len(hosted.comments) == 1


def test_a_dispute_leaves_the_check_run_and_hides_the_figures_in_the_comment(hosted: Hosted) -> None:
    head = hosted.confirmed()
    assert head.submission is not None
    hosted.publish()
    file_dispute(actor=hosted.world.ann, submission_id=head.submission.pk, text="It is worth more.")
    hosted.publish()
    assert hosted.checks == [("Gainshare", "success")] and "%" not in hosted.comments[0]


def test_progress_is_sent_every_15_seconds_at_most(hosted: Hosted) -> None:
    hosted.submitted()
    hosted.publish()
    run = hosted.world.lease()
    for pairs in (6, 12, 24, 48):
        type(run).objects.filter(pk=run.pk).update(pairs_done=pairs)
        hosted.publish()
    assert hosted.standin.asked("PATCH", "/check-runs/") == []
    hosted.later(16)
    publish_due()
    assert len(hosted.standin.asked("PATCH", "/check-runs/")) == 1
    assert hosted.there.checks[0].output["title"] == "Being judged. Interim checks so far: 4"
    publish_due()
    hosted.later(16)
    publish_due()
    assert len(hosted.standin.asked("PATCH", "/check-runs/")) == 1  # nothing new to tell


def test_the_verdict_does_not_wait_for_the_15_seconds(hosted: Hosted) -> None:
    head = hosted.submitted()
    assert head.submission is not None
    hosted.publish()
    hosted.world.gate(head.submission, 0.0)
    hosted.publish()
    assert hosted.checks == [("Gainshare", "neutral")]


def test_a_limit_stops_the_installations_queue_until_it_ends(hosted: Hosted) -> None:
    hosted.submitted()
    hosted.standin.slow_down(120)
    hosted.publish()
    hosted.installation.refresh_from_db()
    assert hosted.installation.quiet_until is not None and hosted.installation.quiet_until > timezone.now()
    asked = len(hosted.standin.requests)
    other = hosted.open(number=77)
    hosted.head(of=other)
    publish(other.pk)
    publish_due()
    assert len(hosted.standin.requests) == asked and hosted.comments == []
    hosted.standin.slow_down(0)
    hosted.later(130)
    publish_due()
    assert len(hosted.comments) == 1 and len(hosted.checks) >= 1


def test_a_deleted_comment_is_said_and_written_again_slowly(hosted: Hosted) -> None:
    hosted.submitted()
    hosted.publish()
    hosted.standin.delete_comment(hosted.pull, hosted.pull.comments[0])
    hosted.command("/status", answer="It waits.")
    hosted.publish()
    row = Report.objects.get(kind="comment")
    assert row.problem and row.github_id is None and hosted.comments == []
    hosted.publish()
    assert hosted.comments == []
    hosted.later(3700)
    publish_due()
    assert len(hosted.comments) == 1 and "It waits." in hosted.comments[0]
    row.refresh_from_db()
    assert (row.problem, row.attempts) == ("", 0)


def test_a_failure_is_tried_again_later_and_later(hosted: Hosted) -> None:
    """A head that GitHub does not have is refused there; the comment is sent all the same."""
    hosted.head(sha="e" * 40)
    hosted.publish()
    row = Report.objects.get(kind="check")
    waits = []
    for _ in range(4):
        row.refresh_from_db()
        assert row.problem and row.due_at is not None
        waits.append(round((row.due_at - timezone.now()).total_seconds() / 30))
        hosted.publish()
        hosted.later((row.due_at - timezone.now()).total_seconds() + 1)
        publish_due()
    assert waits == sorted(waits) and waits[-1] > waits[0] >= 1
    assert len(hosted.comments) == 1


@pytest.mark.parametrize("state", [InstallationState.SUSPENDED, InstallationState.REMOVED])
def test_suspension_is_said_and_nothing_is_asked(hosted: Hosted, state: InstallationState) -> None:
    hosted.submitted()
    Installation.objects.filter(pk=hosted.installation.pk).update(state=state)
    hosted.publish()
    assert hosted.standin.requests == []
    assert state.label.lower() in Report.objects.get(kind="comment").problem
    Installation.objects.filter(pk=hosted.installation.pk).update(state=InstallationState.ACTIVE)
    hosted.later(3700)
    publish_due()
    assert len(hosted.comments) == 1
    assert Report.objects.get(kind="comment").problem == ""


def test_a_suspension_that_github_tells_first_is_said(hosted: Hosted) -> None:
    hosted.submitted()
    hosted.standin.suspend(hosted.standin.hub.state.installations[hosted.installation.pk])
    hosted.publish()
    assert hosted.comments == [] and Report.objects.exclude(problem="").exists()


def test_a_broken_pull_request_does_not_stop_the_others(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bounty.github.reports import publishing

    broken = hosted.open(number=99)
    wanted = publishing.wanted_checks

    def fails(pull_request: Any) -> Any:
        if pull_request.pk == broken.pk:
            raise ValueError("a test")
        return wanted(pull_request)

    monkeypatch.setattr(publishing, "wanted_checks", fails)
    hosted.submitted()
    publish(broken.pk)
    hosted.publish()
    assert len(hosted.comments) == 1
    assert Report.objects.get(pull_request=broken).look_at > timezone.now() + timedelta(minutes=30)


def test_a_replaced_head_and_a_new_one_have_a_check_run_each(hosted: Hosted) -> None:
    old = hosted.head(state=HeadState.WAITING)
    hosted.publish()
    sha = hosted.standin.push_to(hosted.pull, {"model/router.py": "gate = 3\n"})
    Head.objects.filter(pk=old.pk).update(state=HeadState.REPLACED)
    hosted.head(sha=sha, state=HeadState.WAITING)
    hosted.publish()
    assert [(check.head_sha, check.conclusion) for check in hosted.there.checks] == [
        (old.sha, "cancelled"),
        (sha, None),
    ]


def test_a_pull_request_that_is_none_of_ours_is_told_nothing_in_a_comment(hosted: Hosted) -> None:
    hosted.head(diff_blob="", state=HeadState.SEALED, problem=f"{NOTHING_CHANGED}model/, so.")
    hosted.publish()
    assert hosted.comments == [] and hosted.checks == [("Gainshare", "neutral")]
