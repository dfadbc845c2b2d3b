"""Memory of packed weights: anonymous, or a file that is written once and mapped afterwards.

Each kind hands out pieces one after the other with the same alignment, so that the same sizes in the same order
give the same places in a file.
"""

from __future__ import annotations

import mmap
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol

import torch
from torch import Tensor

CHUNK_BYTES = 64 << 20
ALIGNMENT = 64
READ_AHEAD_BYTES = 4096  # kernels prefetch a little beyond the end; a prefetch never faults
#: A huge page. A file that is written and read in such pieces is in huge pages if its file system supports them.
HUGE_BYTES = 2 << 20
WRITE_BYTES = 8 << 20
SAMPLES = 8
SMAPS = Path("/proc/self/smaps_rollup")


class PackedFileError(Exception):
    """A file of packed weights that lacks some of them, or is damaged."""


class Memory(Protocol):
    """Interface of memory for packed weights, in pieces of uint8: filled already if `is_filled`, else zeros to fill.

    A piece must be filled before the next one is asked for.
    """

    is_filled: bool

    def take(self, n_bytes: int) -> Tensor: ...


class OwnMemory:
    """Anonymous memory, in huge pages if the system has them: products read it at full bandwidth.

    A piece lives as long as any tensor over it.
    """

    is_filled = False

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, n_bytes: int) -> Tensor:
        if self._used + n_bytes > self._chunk.numel():
            self._chunk = huge_zeros(max(n_bytes + READ_AHEAD_BYTES, CHUNK_BYTES))
            self._used = 0
        taken = self._chunk[self._used : self._used + n_bytes]
        self._used += _aligned(n_bytes)
        return taken


class WrittenMemory:
    """Writes each filled piece to the end of a file; the piece is invalid afterwards. `finish` must be called last.

    Raises OSError where the disk is full.
    """

    is_filled = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = huge_zeros(WRITE_BYTES)
        self._used = 0

    def take(self, n_bytes: int) -> Tensor:
        if self._used + n_bytes > self._buffer.numel():
            self._write(self._used // HUGE_BYTES * HUGE_BYTES)
        if self._used + n_bytes > self._buffer.numel():
            larger = huge_zeros(_aligned(self._used + n_bytes))
            larger[: self._used] = self._buffer[: self._used]
            self._buffer = larger
        taken = self._buffer[self._used : self._used + n_bytes]
        self._used += _aligned(n_bytes)
        return taken

    def finish(self) -> None:
        """Write the last piece, up to the end of a huge page."""
        self.take(-self._used % HUGE_BYTES)
        self._write(self._used)

    def _write(self, n_bytes: int) -> None:
        self._file.write(self._buffer[:n_bytes].numpy().data)
        rest = self._buffer[n_bytes : self._used].clone()
        self._buffer[: self._used] = 0
        self._buffer[: rest.numel()] = rest
        self._used = rest.numel()


class FilledMemory:
    """Pieces of `data`, which `WrittenMemory` has written. Raises PackedFileError beyond its end."""

    is_filled = True

    def __init__(self, data: Tensor) -> None:
        self._data = data
        self._used = 0

    def take(self, n_bytes: int) -> Tensor:
        taken = self._data[self._used : self._used + n_bytes]
        if taken.numel() < n_bytes:
            raise PackedFileError("the file is too short for the weights")
        self._used += _aligned(n_bytes)
        return taken

    def check_end(self) -> None:
        """Raises PackedFileError where more is left than `WrittenMemory.finish` leaves."""
        if -(-self._used // HUGE_BYTES) * HUGE_BYTES != self._data.numel():
            raise PackedFileError("the file is longer than the weights")


def huge_zeros(n_bytes: int) -> Tensor:
    """Zeroed uint8 memory in a separate mapping; pages that are never written take no memory."""
    # Private: shared memory gets no huge pages.
    mapping = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _ask_for_huge_pages(mapping)
    return torch.frombuffer(mapping, dtype=torch.uint8)


def mapped(file: BufferedReader, start: int) -> Tensor:
    """Map the rest of a file from `start`, uint8; `start` and the file's size are multiples of HUGE_BYTES.

    Where the system maps files in huge pages it is mapped: processes share it and it is read when used. Elsewhere
    products would read it at 0.8 of the bandwidth, so it is read into this process's memory.
    """
    mapping = mmap.mmap(
        file.fileno(), 0, access=mmap.ACCESS_COPY
    )  # pages that are not written are the file's
    _ask_for_huge_pages(mapping)
    data = torch.frombuffer(mapping, dtype=torch.uint8)[start:]
    if _is_in_huge_pages(data):
        return data
    own = huge_zeros(data.numel())
    file.seek(start)
    if file.readinto(own.numpy().data) != own.numel():
        raise PackedFileError("the file was truncated")
    return own


def _is_in_huge_pages(data: Tensor) -> bool:
    """Whether distant places of it are in huge pages after a first read."""
    n_pages = data.numel() // HUGE_BYTES
    samples = range(0, n_pages, max(1, n_pages // SAMPLES))
    before = _huge_file_bytes()
    for page in samples:
        data[page * HUGE_BYTES].item()
    return _huge_file_bytes() - before >= len(samples) * HUGE_BYTES


def _huge_file_bytes() -> int:
    """Bytes of this process's mapped files in huge pages; 0 where the system has no figure."""
    try:
        lines = SMAPS.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("FilePmdMapped:"))


def _ask_for_huge_pages(mapping: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
