"""The search of what a node wrote, against a node that writes what it likes."""

from __future__ import annotations

import mmap
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.canary import written
from benchmarks.canary.planted import Secret, secret_of
from benchmarks.canary.texts import made_up_word
from benchmarks.canary.tokens import tokenizer_of
from benchmarks.canary.written import TooMuch, scratch_folders, search, states_of


@pytest.fixture(params=["/var/tmp", "/dev/shm"], ids=["on a disk", "in memory"])
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of each kind of file system. A node's scratch folders are in memory."""
    with tempfile.TemporaryDirectory(dir=request.param) as name:
        yield Path(name)


@pytest.fixture
def secret() -> Secret:
    return secret_of(made_up_word(random.Random(1)), tokenizer_of(None, "tiny"))


def test_a_word_in_a_new_file_is_found(tmp_path: Path, secret: Secret) -> None:
    known = states_of([tmp_path])
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "cache.bin").write_bytes(b"\0" * 100 + secret.word.encode())
    assert search([tmp_path], [secret], known) == "cache.bin"


def test_a_word_in_the_name_of_a_file_folder_or_link_is_found(tmp_path: Path, secret: Secret) -> None:
    (tmp_path / secret.word).mkdir()
    assert search([tmp_path], [secret], {}) == "the name of a file"
    (tmp_path / secret.word).rmdir()
    (tmp_path / "link").symlink_to(f"/nowhere/{secret.word}")
    assert search([tmp_path], [secret], {}) == "the name of a file"


def test_what_did_not_change_is_passed_over_and_what_did_is_searched(folder: Path, secret: Secret) -> None:
    file = folder / "weights.packed"
    file.write_bytes(secret.word.encode() + b"\0" * 10_000)
    known = states_of([folder])
    assert search([folder], [secret], known) is None
    status = file.stat()
    with file.open("r+b") as stream:
        stream.seek(100)
        stream.write(b"x")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # the time of the change cannot be set
    assert search([folder], [secret], known) == "weights.packed"


def test_what_is_stored_through_an_old_map_is_searched(folder: Path, secret: Secret) -> None:
    """Its page was dirty before the words were planted, so no system call and no fault tells of the second store."""
    file = folder / "mapped"
    file.write_bytes(b"\0" * mmap.PAGESIZE)
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), mmap.PAGESIZE) as page:
        page[0] = 1
        known = states_of([folder])
        page[100 : 100 + len(secret.word)] = secret.word.encode()
        assert search([folder], [secret], known) == "mapped"


def test_a_file_with_holes_in_memory_is_not_read_for_ever(secret: Secret) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        with (Path(name) / "holes").open("wb") as file:
            file.truncate(1 << 44)
        known = states_of([Path(name)])
        assert known == {}
        with pytest.raises(TooMuch, match="wrote more than"):
            search([Path(name)], [secret], known)


def test_a_word_across_two_chunks_is_found(
    tmp_path: Path, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written, "CHUNK_BYTES", 8_192)
    (tmp_path / "a").write_bytes(b"." * 8_185 + secret.word.encode() + b"." * 8_000)
    assert search([tmp_path], [secret], {}) == "a"


def test_links_pipes_and_devices_are_not_opened(tmp_path: Path, secret: Secret) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(secret.word.encode())
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "folder").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    assert search([inside], [secret], {}) is None
    assert states_of([inside]) == {}


def test_too_many_files_or_bytes_are_an_error_and_not_unseen(
    tmp_path: Path, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"." * 100)
    monkeypatch.setattr(written, "MOST_BYTES", 1_000)
    with pytest.raises(TooMuch, match="after the words were planted"):
        search([tmp_path], [secret], {})
    monkeypatch.setattr(written, "MOST_FILES", 10)
    with pytest.raises(TooMuch, match="files"):
        search([tmp_path], [secret], {})


def test_only_processes_of_a_sandbox_have_scratch_folders() -> None:
    assert scratch_folders([os.getpid(), 1 << 22]) == []
