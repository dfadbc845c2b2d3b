"""Blobs that are staged in memory before they are stored."""

from pathlib import Path

import pytest

from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import BlobStore, TreeError


@pytest.fixture
def behind(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_nothing_is_stored_before_it_is_written(behind: BlobStore) -> None:
    staged = StagedBlobs(behind)
    name = staged.put(b"new")
    assert staged.has(name) and staged.get(name) == b"new"
    assert not behind.has(name)
    staged.write()
    staged.write()
    assert behind.get(name) == b"new"


def test_what_is_stored_already_is_read_through(behind: BlobStore) -> None:
    name = behind.put(b"old")
    staged = StagedBlobs(behind)
    assert staged.has(name) and staged.get(name) == b"old"
    with pytest.raises(TreeError, match="not in this store"):
        staged.get("0" * 64)
    assert not staged.has("0" * 64)
