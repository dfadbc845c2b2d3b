"""Where packed weights lie: pieces that do not overlap, and that come back from a file as they were put into it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.serving.executors import packed_memory
from model.serving.executors.packed_memory import (
    FilledMemory,
    OwnMemory,
    PackedFileError,
    WrittenMemory,
    huge_zeros,
    mapped,
)

HUGE, WRITE, START = 1 << 12, 1 << 14, 1 << 12


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_memory, "HUGE_BYTES", HUGE)
    monkeypatch.setattr(packed_memory, "WRITE_BYTES", WRITE)


def test_pieces_of_memory_do_not_overlap_and_are_zero() -> None:
    memory = OwnMemory()
    pieces = [memory.take(size) for size in (1, 64, 65, 3)]
    for number, piece in enumerate(pieces, 1):
        assert (piece == 0).all()
        piece.fill_(number)
    assert [int(piece.float().mean()) for piece in pieces] == [1, 2, 3, 4]


def test_memory_outlives_what_asked_for_it() -> None:
    kept = huge_zeros(10_000)[5:]
    torch.empty(1 << 20).fill_(1)
    assert kept.sum() == 0


@given(st.lists(st.integers(0, 3 * WRITE), max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_gives_back_each_piece_that_was_put_into_it(small_pages: None, sizes: list[int]) -> None:
    file = io.BytesIO()
    memory = WrittenMemory(file)
    for number, size in enumerate(sizes, 1):
        piece = memory.take(size)
        assert piece.numel() == size and not piece.any()
        piece.fill_(number)
    memory.finish()
    assert file.tell() % HUGE == 0
    data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8) if file.tell() else torch.zeros(0)
    filled = FilledMemory(data)
    for number, size in enumerate(sizes, 1):
        piece = filled.take(size)
        assert piece.numel() == size and (piece == number).all()
        assert (
            size == 0
            or piece.data_ptr() % packed_memory.ALIGNMENT == data.data_ptr() % packed_memory.ALIGNMENT
        )
    filled.check_end()


def test_a_file_that_does_not_hold_what_is_asked_for_is_refused(small_pages: None) -> None:
    memory = FilledMemory(torch.zeros(2 * HUGE, dtype=torch.uint8))
    memory.take(100)
    with pytest.raises(PackedFileError, match="longer than the weights"):
        memory.check_end()
    memory.take(HUGE)
    memory.check_end()
    with pytest.raises(PackedFileError, match="too short"):
        memory.take(HUGE)


def written(path: Path) -> torch.Tensor:
    """What the file has behind its start."""
    data = torch.arange(5 * HUGE, dtype=torch.int64).to(torch.uint8)
    path.write_bytes(b"\1" * START + data.numpy().tobytes())
    return data


@pytest.mark.parametrize("is_huge", [True, False])
def test_a_file_is_mapped_or_read_from_its_start(
    is_huge: bool, small_pages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_memory, "_is_in_huge_pages", lambda data: is_huge)
    data = written(tmp_path / "file")
    with (tmp_path / "file").open("rb") as file:
        found = mapped(file, START)
    assert torch.equal(found, data)
    maps = Path("/proc/self/maps").read_text()
    assert (str(tmp_path / "file") in maps) == is_huge
    (tmp_path / "file").unlink()  # whoever has it keeps it
    assert torch.equal(found, data)


def test_writing_to_mapped_weights_leaves_the_file_alone(small_pages: None, tmp_path: Path) -> None:
    data = written(tmp_path / "file")
    with (tmp_path / "file").open("rb") as file:
        found = mapped(file, START)
    found.zero_()
    assert (tmp_path / "file").read_bytes()[START:] == data.numpy().tobytes()


def test_a_system_that_does_not_say_how_files_are_mapped_gets_them_read(
    small_pages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_memory, "SMAPS", tmp_path / "none")
    data = written(tmp_path / "file")
    with (tmp_path / "file").open("rb") as file:
        assert torch.equal(mapped(file, START), data)
    assert str(tmp_path / "file") not in Path("/proc/self/maps").read_text()
