"""Blobs that nothing names are removed; those that a row names, or may be about to name, never."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.apps import apps
from django.db import connection, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from bounty.models import Evidence, StoredTree, Submission
from bounty.services import blob_sweep
from bounty.services.blob_sweep import NAMED_BY, named_blobs, sweep_blobs
from bounty.services.reproductions import reproduce
from bounty.services.trees import blob_store, load_tree
from bounty.tasks import sweep_blobs as sweep_task
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.bug_world import BugWorld
from tests.bounty.services.test_killed_control import in_a_worker

SUBMIT = (
    "import sys, django; django.setup(); from bounty.services.submissions import submit; "
    "from gainshare.accounts.models import User; "
    "submit(actor=User.objects.get(pk=sys.argv[1]), bounty_id=sys.argv[2], diff=sys.argv[3])"
)
SWEEP = "import django; django.setup(); from bounty.services.blob_sweep import sweep_blobs; sweep_blobs()"
DIFF = diff_of_line(3, "step_3 = 33")


def names(root: Path) -> set[str]:
    return {path.parent.name + path.name for path in root.glob("??/*")}


def make_old(root: Path, name: str | None = None) -> None:
    """Date one blob, or all, two days back."""
    then = time.time() - 2 * 86_400
    for path in root.glob("??/*"):
        if name in (None, path.parent.name + path.name):
            os.utime(path, (then, then))


def test_what_no_row_names_is_removed_once_it_is_old(world: World, blob_root: Path) -> None:
    stray = blob_store().put(b"of a submission that came to nothing")
    unfinished = blob_root / "ab" / ".put-killed"
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.write_bytes(b"half")
    assert sweep_blobs() == 0 and stray in names(blob_root) and unfinished.exists()
    make_old(blob_root)
    sweep_task()
    assert names(blob_root) == named_blobs()
    assert not unfinished.exists()
    assert sweep_blobs() == 0


def test_everything_that_a_row_names_stays_readable(world: World, blob_root: Path) -> None:
    first = world.vested(world.ann, DIFF)
    rejected = world.submit(world.bob, "this is no diff")
    make_old(blob_root)
    assert sweep_blobs() == 0
    store = blob_store()
    for tree in StoredTree.objects.all():
        for entry in load_tree(tree).entries:
            store.get(entry.blob)
    assert first.candidate_tree is not None and Evidence.objects.count() == 3
    for blob in (first.diff_blob, rejected.diff_blob, *Evidence.objects.values_list("blob", flat=True)):
        store.get(blob)


def test_a_reproduction_stays_readable(db: None, blob_root: Path) -> None:
    world = BugWorld()
    made = reproduce(actor=world.ann, bounty_id=world.bug.pk, text="def observe(): ...\ndef check(): ...\n")
    make_old(blob_root)
    assert sweep_blobs() == 0
    assert blob_store().get(made.blob)


def test_the_sweep_knows_every_column_that_names_a_blob() -> None:
    columns = {
        (model, field.name)
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if isinstance(field, models.Field) and ("blob" in field.name or field.name == "manifest")
    }
    assert columns == {*NAMED_BY, (StoredTree, "manifest")}


def test_a_store_that_the_database_does_not_know_is_left_alone(
    db: None, blob_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blob_store().put(b"of another database")
    make_old(blob_root)
    assert sweep_blobs() == 0
    assert len(names(blob_root)) == 1
    assert "may be another store's" in caplog.text


@pytest.fixture
def second(transactional_db: None) -> Iterator[BaseDatabaseWrapper]:
    """Another connection to the test's database, as another process has it."""
    other = connections.create_connection("default")
    yield other
    other.close()


def test_a_transaction_that_is_still_open_keeps_what_it_may_name(
    second: BaseDatabaseWrapper, blob_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process stalls longer than a blob is kept: between its put and its commit nothing is removed."""
    monkeypatch.setattr(blob_sweep, "KEPT_FOR", timedelta())
    monkeypatch.setattr(blob_sweep, "BEFORE_TRANSACTION", timedelta(seconds=1))
    World()
    second.set_autocommit(False)
    with second.cursor() as cursor:
        cursor.execute("SELECT 1")
    stray = blob_store().put(b"about to be named")
    time.sleep(0.05)
    assert sweep_blobs() == 0 and stray in names(blob_root)
    second.rollback()
    assert sweep_blobs() == 1 and stray not in names(blob_root)


@pytest.mark.django_db(transaction=True)
def test_a_submission_killed_before_its_commit_leaves_blobs_that_are_swept(
    tmp_path: Path, blob_root: Path
) -> None:
    world = World()
    before = names(blob_root)
    arguments = (str(world.ann.pk), str(world.bounty.pk), DIFF)
    marks = tmp_path / "marks"
    assert in_a_worker(SUBMIT, *arguments, fault="web.submission_stored", marks=marks) == -signal.SIGKILL
    assert not Submission.objects.exists()
    left = names(blob_root) - before
    assert len(left) == 2
    assert sweep_blobs() == 0
    make_old(blob_root)
    with transaction.atomic():  # the sender tries again while the sweep begins
        again = world.submit(world.ann, DIFF)
    assert sweep_blobs() == 0
    assert blob_store().get(again.diff_blob).decode() == DIFF


@pytest.mark.django_db(transaction=True)
def test_a_killed_sweep_is_finished_by_the_next_one(tmp_path: Path, blob_root: Path) -> None:
    world = World()
    kept = names(blob_root)
    for number in range(5):
        blob_store().put(b"stray %d" % number)
    make_old(blob_root)
    marks = tmp_path / "marks"
    assert in_a_worker(SWEEP, fault="control.blob_removed", marks=marks) == -signal.SIGKILL
    assert len(names(blob_root) - kept) == 4
    assert in_a_worker(SWEEP, fault="control.blob_removed", marks=marks) == 0
    assert names(blob_root) == kept
    assert connection.vendor == "postgresql" and world.tree.pk
