"""A mapped file's size: told when the file was cut off, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.data.arrow.mapped_size import MappedSize


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "shard"
    file.write_bytes(b"x" * 2000)
    return file


def test_a_file_that_was_cut_off_says_by_how_much(file: Path) -> None:
    mapped = MappedSize(file)
    assert mapped.lost() is None
    os.truncate(file, 1999)
    assert mapped.lost() == "it was truncated from 2,000 to 1,999 bytes since it was opened"


def test_what_takes_its_place_or_follows_it_is_no_loss(file: Path) -> None:
    mapped = MappedSize(file)
    with file.open("ab") as more:
        more.write(b"y")
    assert mapped.lost() is None
    shorter = file.with_name("shorter")
    shorter.write_bytes(b"z")
    shorter.replace(file)
    assert mapped.lost() is None
    file.unlink()
    assert mapped.lost() is None


def test_a_thousand_of_them_need_no_open_files(file: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    mapped = [MappedSize(file) for _ in range(1000)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before and not any(one.lost() for one in mapped)
