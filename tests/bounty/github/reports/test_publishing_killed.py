"""The worker that reports is killed (SIGKILL, for real) between its steps: still one comment, and one check run a head."""

import signal
from pathlib import Path

import pytest

from bounty.github.reports.publishing import publish_due
from bounty.github.standin.control.standin import StandIn
from bounty.models import Report
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.submissions import find_submission
from tests.bounty.bounty_world import World
from tests.bounty.github.reports.hosted import Hosted
from tests.bounty.services.test_killed_control import in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

PUBLISH = (
    "import sys, uuid, django; django.setup(); from bounty.github.reports.publishing import publish; "
    "publish(uuid.UUID(sys.argv[1]))"
)


@pytest.fixture
def killed(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Hosted:
    for name, value in standin.environment().items():
        monkeypatch.setenv(name, value)
    return Hosted(World(), standin=standin)


def kill(hosted: Hosted, fault: str, marks: Path) -> None:
    status = in_a_worker(PUBLISH, str(hosted.pull_request.pk), fault=fault, marks=marks)
    assert status == -signal.SIGKILL


@pytest.mark.parametrize(
    "fault",
    [
        "report.entered",
        "report.check_created",
        "report.comment_created",
        "report.before_commit",
        "report.recorded",
    ],
)
def test_a_killed_report_is_made_once(killed: Hosted, fault: str, tmp_path: Path) -> None:
    killed.submitted()
    kill(killed, fault, tmp_path / "marks")
    publish_due()  # what beat finds
    assert len(killed.comments) == 1 and killed.checks == [("Gainshare", None)]
    assert Report.objects.count() == 2 and not Report.objects.filter(github_id=None).exists()


@pytest.mark.parametrize(
    "fault", ["report.check_updated", "report.comment_edited", "report.before_commit", "report.recorded"]
)
def test_a_killed_change_is_sent(killed: Hosted, fault: str, tmp_path: Path) -> None:
    head = killed.submitted()
    assert head.submission is not None
    killed.publish()
    killed.world.gate(head.submission, 0.0)
    kill(killed, fault, tmp_path / "marks")
    publish_due()
    assert len(killed.comments) == 1 and "Verdict: no gain" in killed.comments[0]
    assert killed.checks == [("Gainshare", "neutral")]


@pytest.mark.parametrize("fault", ["report.recorded", "report.check_created", "report.before_commit"])
def test_a_final_check_run_is_sent_as_it_was_written_down(killed: Hosted, fault: str, tmp_path: Path) -> None:
    """Between the kill and the next worker the verdict is disputed and replaced: the first check run keeps its own."""
    head = killed.submitted()
    assert head.submission is not None
    killed.world.gate(head.submission, 0.0)
    kill(killed, fault, tmp_path / "marks")
    dispute = file_dispute(actor=killed.world.ann, submission_id=head.submission.pk, text="It was noisy.")
    answer_dispute(actor=killed.world.ruth, dispute_id=dispute.pk, answer="remeasure", text="Let us see.")
    for speed_up in (0.3, 0.3, 0.0):
        killed.world.gate(find_submission(head.submission.pk), speed_up)
    publish_due()
    assert killed.checks == [("Gainshare", "neutral"), ("Gainshare: after the verdict", "success")]
    assert len(killed.comments) == 1
