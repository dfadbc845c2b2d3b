"""Control workers are killed (SIGKILL, for real) between the steps of a pull request: each is done once in the end."""

import signal
from pathlib import Path
from uuid import uuid4

import pytest

from bounty.github.events.deliveries import receive
from bounty.github.pulls.seeing import see_comment
from bounty.models import Command, Delivery, Head, PullRequest, Submission
from bounty.services.bounties import available_escrow
from bounty.services.submissions import attempts_used
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, PAM, Pulls, experts, link
from tests.bounty.services.test_killed_control import in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

ADVANCE = (
    "import sys, django; django.setup(); from bounty.github.pulls.advance import advance_pull_request; "
    "advance_pull_request(pull_request_id=sys.argv[1])"
)
PROCESS = (
    "import sys, django; django.setup(); from bounty.github.events.deliveries import process_delivery; "
    "process_delivery(delivery_id=sys.argv[1])"
)
KILLED = -signal.SIGKILL


@pytest.fixture
def pulls(served_folder: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pulls:
    root, url = served_folder
    monkeypatch.setenv("GAINSHARE_REPOSITORY_ROOT", str(tmp_path / "repositories"))
    monkeypatch.setenv("GAINSHARE_REPOSITORY_HTTP", "yes")
    return Pulls(Bound(World(), url, Repository(root / "model.git")))


def killed_and_repeated(program: str, argument: object, *, fault: str, marks: Path) -> None:
    assert in_a_worker(program, str(argument), fault=fault, marks=marks) == KILLED
    for _ in range(2):
        assert in_a_worker(program, str(argument), fault=fault, marks=marks) == 0


@pytest.mark.parametrize(
    "fault",
    [
        "pulls.fetched",
        "pulls.blobs_stored",
        "pulls.sealed",
        "pulls.heads_sealed",
        "web.submission_stored",
        "pulls.before_submitted",
        "pulls.submitted",
    ],
)
def test_a_head_whose_sealing_was_killed_is_submitted_once(pulls: Pulls, fault: str, tmp_path: Path) -> None:
    sha = pulls.commit()
    pull = pulls.see(pulls.facts(sha))
    killed_and_repeated(ADVANCE, pull.pk, fault=fault, marks=tmp_path / "marks")
    head = Head.objects.get()
    submission = Submission.objects.get()
    assert (head.state, head.submission, head.sealed_at) == ("submitted", submission, submission.sealed_at)
    assert (submission.state, submission.runs.count()) == ("queued", 1)


@pytest.mark.parametrize("fault", ["pulls.replaced", "pulls.before_submitted"])
def test_a_killed_exchange_of_heads_is_finished_at_no_cost(pulls: Pulls, fault: str, tmp_path: Path) -> None:
    pull = pulls.opened(pulls.commit())
    sha = pulls.commit(files={EXPERTS_PATH: experts(step_5="step_5 = 55")})
    pulls.see(pulls.facts(sha, created_at=pull.opened_at, updated_at=pulls.later()))
    killed_and_repeated(ADVANCE, pull.pk, fault=fault, marks=tmp_path / "marks")
    assert sorted(Submission.objects.values_list("state", flat=True)) == ["queued", "withdrawn"]
    assert pulls.head(sha).submission == Submission.objects.get(state="queued")
    assert attempts_used(bounty=pulls.world.bounty, person=pulls.world.ann) == 1


@pytest.mark.parametrize("fault", ["pulls.before_answered", "pulls.answered"])
def test_a_command_that_was_killed_moves_money_once(pulls: Pulls, fault: str, tmp_path: Path) -> None:
    mira = type(PAM)(600, "mira")
    link(pulls.world.mira, mira)
    pull = pulls.opened(pulls.commit())
    see_comment(pulls.comment(pull, "/fund 5\n/bounty open decode 20 10", author=mira))
    killed_and_repeated(ADVANCE, pull.pk, fault=fault, marks=tmp_path / "marks")
    assert [command.state for command in Command.objects.order_by("line")] == ["done", "done"]
    assert available_escrow(pulls.world.bounty) == 105_000_000
    assert pulls.world.lineage.bounties.count() == 2
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


@pytest.mark.parametrize("fault", ["events.handled"])
def test_a_delivery_that_was_killed_is_worked_off_once(pulls: Pulls, fault: str, tmp_path: Path) -> None:
    sha, delivery_id = pulls.commit(), uuid4()
    payload = {
        "action": "opened",
        "repository": {"id": pulls.github.pk},
        "pull_request": {
            "number": 1,
            "user": {"id": PAM.github_id, "login": PAM.login, "type": "User"},
            "title": "t",
            "body": None,
            "base": {"ref": "main", "repo": {"id": pulls.github.pk}},
            "head": {"sha": sha},
            "state": "open",
            "draft": False,
            "merged": False,
            "created_at": pulls.now.isoformat(),
            "updated_at": pulls.now.isoformat(),
        },
    }
    assert receive(delivery_id=delivery_id, event="pull_request", payload=payload)
    killed_and_repeated(PROCESS, delivery_id, fault=fault, marks=tmp_path / "marks")
    assert not receive(delivery_id=delivery_id, event="pull_request", payload=payload)
    assert Delivery.objects.get().done_at is not None
    assert (PullRequest.objects.count(), Head.objects.count()) == (1, 1)
