"""A worker is killed (SIGKILL, for real) between the steps of a merge on GitHub: one merge and one award come out of it."""

import signal
from pathlib import Path

import pytest

from bounty.github.merging.reversals import open_reversals
from bounty.models import (
    Award,
    GitHubRepository,
    Landing,
    Push,
    RepositoryBinding,
    Reversal,
    StateChange,
    Submission,
)
from bounty.services.reconcile import reconcile_runs
from bounty.services.submissions import find_submission
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository
from tests.bounty.github.merging.conftest import Hub, accept, candidate, state_of
from tests.bounty.services.test_killed_control import in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

FOLLOW = "import sys, django; django.setup(); from bounty.github.repositories.following import follow; follow(lineage=sys.argv[1])"
DECIDE = (
    "import sys, django; django.setup(); from bounty.github.merging.reversals import decide; "
    "from gainshare.accounts.models import User; from uuid import UUID; "
    "decide(actor=User.objects.get(pk=sys.argv[1]), reversal_id=UUID(sys.argv[2]), answer='confirmed', text='yes')"
)
APPROVE = (
    "import sys, django; django.setup(); from bounty.github.merging.acceptance import approve; "
    "from bounty.github.app.facts import AccountFacts, ReviewFacts; from bounty.models import Head; "
    "from django.utils import timezone; head = Head.objects.select_related('pull_request').get(pk=sys.argv[1]); "
    "approve(head, ReviewFacts(head.pull_request.repository_id, head.pull_request.number, 5, "
    "AccountFacts(int(sys.argv[2]), 'x'), head.sha, 'approved', timezone.now()))"
)


@pytest.fixture
def hub(served_folder: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    root, url = served_folder
    monkeypatch.setenv("GAINSHARE_REPOSITORY_ROOT", str(tmp_path / "repositories"))
    monkeypatch.setenv("GAINSHARE_REPOSITORY_HTTP", "yes")
    bound = Bound(World(), url, Repository(root / "model.git"))
    github = GitHubRepository.objects.create(github_id=1, full_name="gain/share")
    RepositoryBinding.objects.update(github=github)
    bound.follow()
    return Hub(bound, github)


def accepted(hub: Hub) -> Submission:
    world = hub.bound.world
    submission = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    return accept(world.ruth, submission)


def holds() -> bool:
    return [invariant.name for invariant in audit() if not invariant.holds] == []


@pytest.mark.parametrize(
    "fault",
    [
        "repository.fetched",
        "repository.before_merges_commit",
        "repository.merged",
        "control.vested",
        "repository.followed",
    ],
)
def test_a_merge_whose_following_was_killed_is_one_merge_and_one_award(
    hub: Hub, fault: str, tmp_path: Path
) -> None:
    submission = accepted(hub)
    hub.land_candidate(submission)
    hub.bound.push("gate = 'sigmoid'\n")
    name, marks = hub.bound.lineage.name, tmp_path / "marks"
    assert in_a_worker(FOLLOW, name, fault=fault, marks=marks) == -signal.SIGKILL
    hub.bound.follow()
    reconcile_runs()
    assert state_of(submission) == "vested" and Landing.objects.get().state == "merged"
    award = Award.objects.get(state="vested")
    assert ledger.balance(hub.bound.world.ann).available == award.amount_microcredits and holds()
    assert StateChange.objects.filter(subject="lineage", reason__startswith="merged").count() == 1
    assert Push.objects.get().replaced == candidate(submission)


def test_a_waiting_merge_whose_following_was_killed_is_one_landing(hub: Hub, tmp_path: Path) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    hub.land_candidate(submission)
    name, marks = hub.bound.lineage.name, tmp_path / "marks"
    assert in_a_worker(FOLLOW, name, fault="repository.merged", marks=marks) == -signal.SIGKILL
    assert "not accepted yet" in hub.bound.follow().problem
    assert Landing.objects.count() == 1 and state_of(submission) == "confirmed"


def test_a_reversal_and_a_restoration_that_were_killed_happen_once(hub: Hub, tmp_path: Path) -> None:
    world, submission = hub.bound.world, accepted(hub)
    hub.land_candidate(submission)
    hub.bound.follow()
    paid = ledger.balance(world.ann).available
    for number, (tree, left) in enumerate(((world.tree, 0), (candidate(submission), paid))):
        hub.land(tree)
        hub.bound.follow()
        row, marks = open_reversals().get(), tmp_path / f"marks{number}"
        arguments = (str(world.ruth.pk), str(row.pk))
        killed = in_a_worker(DECIDE, *arguments, fault="merging.reversal_decided", marks=marks)
        assert killed == -signal.SIGKILL
        assert in_a_worker(DECIDE, *arguments, fault="none", marks=marks) == 0
        assert hub.bound.follow().problem == ""
        assert ledger.balance(world.ann).available == left and holds()
    assert Reversal.objects.filter(state="confirmed").count() == 2 and state_of(submission) == "vested"


def test_an_approval_that_was_killed_counts_once(hub: Hub, tmp_path: Path) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, diff_of_line(3, "step_3 = 33"))
    head, ruth = hub.head(submission), hub.link(world.ruth)
    arguments, marks = (str(head.pk), str(ruth.github_id)), tmp_path / "marks"
    killed = in_a_worker(APPROVE, *arguments, fault="merging.approval_kept", marks=marks)
    assert killed == -signal.SIGKILL
    assert in_a_worker(APPROVE, *arguments, fault="none", marks=marks) == 0
    assert find_submission(submission.pk).reviews.count() == 1 and state_of(submission) == "accepted"
