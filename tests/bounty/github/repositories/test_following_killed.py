"""Following a branch is killed (SIGKILL, for real) between its steps: the next one finishes it, once."""

import signal
from pathlib import Path

import pytest

from bounty.models import Lineage, Push, RepositoryBinding, RepositoryStop, StateChange
from tests.bounty.bounty_world import World
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository
from tests.bounty.services.test_killed_control import in_a_worker

pytestmark = pytest.mark.django_db(transaction=True)

FOLLOW = "import sys, django; django.setup(); from bounty.github.repositories.following import follow; follow(lineage=sys.argv[1])"


@pytest.fixture
def bound(served_folder: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bound:
    root, url = served_folder
    monkeypatch.setenv("GAINSHARE_REPOSITORY_ROOT", str(tmp_path / "repositories"))
    monkeypatch.setenv("GAINSHARE_REPOSITORY_HTTP", "yes")
    return Bound(World(), url, Repository(root / "model.git"))


@pytest.mark.parametrize(
    "fault",
    [
        "repository.created",
        "repository.fetched",
        "repository.blobs_stored",
        "repository.before_commit",
        "repository.tip_moved",
        "repository.followed",
    ],
)
def test_a_push_whose_following_was_killed_moves_the_tip_once(
    bound: Bound, fault: str, tmp_path: Path
) -> None:
    commit = bound.push("gate = 'sigmoid'\n")
    name, marks = bound.lineage.name, tmp_path / "marks"
    assert in_a_worker(FOLLOW, name, fault=fault, marks=marks) == -signal.SIGKILL
    assert in_a_worker(FOLLOW, name, fault=fault, marks=marks) == 0
    bound.follow()
    push = Push.objects.get()
    assert (push.commit, push.replaced, push.tree) == (commit, bound.world.tree, bound.lineage.tip)
    binding = RepositoryBinding.objects.get()
    assert (binding.commit, binding.tree, binding.problem) == (commit, push.tree, "")
    assert StateChange.objects.filter(subject="lineage", reason__startswith="push of").count() == 1


def test_a_stop_whose_following_was_killed_is_one_stop(bound: Bound, tmp_path: Path) -> None:
    bound.follow()
    bound.repository.put("model/layers/moe/router.py", "gate = 'other'\n")
    bound.repository.commit("rewritten", parent=None)
    name, marks = bound.lineage.name, tmp_path / "marks"
    assert in_a_worker(FOLLOW, name, fault="repository.followed", marks=marks) == -signal.SIGKILL
    bound.follow()
    assert RepositoryStop.objects.count() == 1
    assert Lineage.objects.get().tip == bound.world.tree
