"""The blob store's removal of old blobs, and its race with putting the same content again."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.patch.blobs import BlobStore

DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def age(store: BlobStore, name: str, seconds: float = 2 * DAY) -> None:
    then = time.time() - seconds
    os.utime(store.path(name), (then, then))


def test_only_old_blobs_are_listed_and_removed(store: BlobStore) -> None:
    old, young = store.put(b"old"), store.put(b"young")
    age(store, old)
    before = time.time() - DAY
    assert store.put_before(before) == [old]
    assert store.remove(old, put_before=before) and not store.has(old)
    assert not store.remove(old, put_before=before)
    assert not store.remove(young, put_before=before) and store.has(young)


def test_putting_what_is_stored_renews_its_age(store: BlobStore) -> None:
    name = store.put(b"again")
    age(store, name)
    before = time.time() - DAY
    listed = store.put_before(before)
    assert listed == [name]
    store.put(b"again")
    assert not store.remove(name, put_before=before)
    assert store.get(name) == b"again"


def test_what_a_killed_put_left_is_removed_when_it_is_old(store: BlobStore) -> None:
    folder = store.path(store.put(b"whole")).parent
    for name in (".put-old", ".put-young"):
        (folder / name).write_bytes(b"half")
    os.utime(folder / ".put-old", (0, 0))
    assert store.put_before(time.time() - DAY) == []
    store.remove_unfinished(put_before=time.time() - DAY)
    assert sorted(path.name for path in folder.glob(".put-*")) == [".put-young"]


def test_a_removal_never_takes_what_was_just_put(store: BlobStore) -> None:
    """One thread removes the old blob again and again, while another puts it: after a put it is there."""
    name, data = store.put(b"wanted"), b"wanted"
    n_removed, ended = 0, threading.Event()

    def sweep() -> None:
        nonlocal n_removed
        while not ended.is_set():
            n_removed += store.remove(name, put_before=time.time() - DAY)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        while n_removed < 20:
            with suppress(FileNotFoundError):  # removed already
                age(store, name)
            store.put(data)
            assert store.get(name) == data
    finally:
        ended.set()
        sweeper.join()
