"""Following, merging and binding at once: each change happens once, and none is lost."""

import threading
import time
from pathlib import Path

import pytest
from django.db import connection, transaction

from bounty.github.repositories.bindings import unbind
from bounty.github.repositories.following import follow, mirror_of
from bounty.models import Lineage, Push, RepositoryBinding, RepositoryStop, StateChange, WaitingMerge
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository
from tests.bounty.services.test_races import at_once

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def bound(served_folder: tuple[Path, str]) -> Bound:
    root, url = served_folder
    return Bound(World(), url, Repository(root / "model.git"))


def test_a_push_that_many_follow_at_once_moves_the_tip_once(bound: Bound) -> None:
    bound.push("gate = 'sigmoid'\n")
    name = bound.lineage.name
    at_once([lambda: follow(lineage=name)] * 4)
    follow(lineage=name)
    assert Push.objects.count() == 1
    assert StateChange.objects.filter(subject="lineage", reason__startswith="push of").count() == 1


def test_a_merge_that_waited_for_a_stopping_lineage_is_not_made(bound: Bound) -> None:
    """The merge looked before the stop was there, and gets the lineage's lock after it."""
    bound.follow()
    submission = bound.world.confirmed(bound.world.ann, diff_of_line(3, "step_3 = 33"))
    review(actor=bound.world.ruth, submission_id=submission.pk, decision="accept")

    def merging() -> None:
        merge(actor=bound.world.mira, submission_id=submission.pk)
        connection.close()

    thread = threading.Thread(target=merging)
    with transaction.atomic():
        lineage = Lineage.objects.select_for_update(no_key=True).get(pk=bound.lineage.pk)
        thread.start()
        _await_a_waiting_backend()
        RepositoryStop.objects.create(
            lineage=lineage, tree=lineage.tip, lost_commit="a", found_commit="b", reason="lost"
        )
    thread.join(60)
    assert find_submission(submission.pk).merged_at is None
    assert bound.lineage.tip == bound.world.tree and WaitingMerge.objects.count() == 1


def _await_a_waiting_backend() -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone() != (0,):
                return
        time.sleep(0.02)
    raise AssertionError("no process waits for the lineage's lock")


def test_a_binding_that_ends_while_it_is_followed_leaves_nothing(
    bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound.push("gate = 'sigmoid'\n")
    folder = mirror_of(RepositoryBinding.objects.get())
    real = follow.__globals__["_find"]

    def found_then_unbound(binding: RepositoryBinding) -> object:
        found = real(binding)
        unbind(actor=bound.world.mira, name=bound.lineage.name)
        return found

    monkeypatch.setitem(follow.__globals__, "_find", found_then_unbound)
    follow(lineage=bound.lineage.name)
    assert not RepositoryBinding.objects.exists() and not Push.objects.exists()
    assert bound.lineage.tip == bound.world.tree and not folder.exists()
