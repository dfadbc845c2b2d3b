"""Large tensors between the judge and a sandboxed sample, through memory that no one can change once it counts.

In addition to its pipes a sample may hold one end of a SOCK_SEQPACKET pair (`spawn(has_socket=True)`). It is one-way: only the
judge sends, and what it sends is the descriptor of a memory file (memfd_create(2)). Nothing that a sample could make
up (a descriptor, a size, a message) reaches the judge this way.

    judge                                       sample
    send_sealed(socket, parts, deadline)   ->   receive_sealed(socket, size, deadline)     inputs
    lent = lend(socket, size, deadline)    ->   fill_lent(socket, parts, deadline)         outputs
    lent.collect()                              ... and then its answer through the pipe

Inputs are sealed before they are sent. Outputs go into memory that the judge made, of the exact size and with its size
sealed. When the sample's answer has come through the pipe, the judge seals the content too and only then stops its
clock: while a writable mapping or a write in progress is left the kernel refuses the seal, so `collect` either raises
or returns bytes that are final. No sample makes memory files itself, so none can hide memory from its limits; what it
keeps of the judge's files is bounded by what it was sent.

Both sides make fresh memory for every message: one file shown to two samples would be a channel between them. The same
file is mounted into the sandbox, so: standard library only. Deadlines are `time.perf_counter_ns()` values. Knows
no tensors, frames or sandboxes.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

#: Where `spawn(has_socket=True)` says which descriptor the sample's end is.
SOCKET_VARIABLE = "SANDBOX_SOCKET_FD"
MAX_SEALED_BYTES = 512 * 1024 * 1024
MESSAGE = struct.Struct("<4sQ")  # what the descriptor is for, and its size in bytes
INPUT, OUTPUT = b"GSin", b"GSou"
SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
ALL_SEALS = SIZE_SEALS | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
DESCRIPTOR_BYTES = array.array("i").itemsize

MOST_POLL_MS = (1 << 31) - 1
BUSY_S = 0.5  # so long a seal is tried; the clock that a sample pays for runs meanwhile

Part = Any  # whatever memoryview() takes, contiguous


class SealedError(Exception):
    """Memory or a message that is not exactly what was expected, or none in time."""


def inherited_socket() -> socket.socket:
    """The sample's end. Raises SealedError where the judge gave none."""
    number = os.environ.get(SOCKET_VARIABLE)
    if number is None:
        raise SealedError(f"{SOCKET_VARIABLE} is not set: this sample was started without a socket")
    return socket.socket(fileno=int(number))


class Sealed:
    """The bytes of `parts`, one after the other, in one sealed memory file. Made before a clock runs; `send` is short."""

    def __init__(self, parts: Sequence[Part]) -> None:
        views = _views(parts)
        self.size_bytes = _checked_size(sum(view.nbytes for view in views))
        self._fd: int | None = _memory(self.size_bytes)
        try:
            _write(self._fd, views)
            _seal(self._fd, self.size_bytes)
        except BaseException:
            self.close()
            raise

    def send(self, sock: socket.socket, deadline_ns: int) -> None:
        """Once; the memory is the receiver's from then on."""
        if self._fd is None:
            raise SealedError("sealed memory is sent once")
        try:
            _send(sock, INPUT, self.size_bytes, self._fd, deadline_ns)
        finally:
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def send_sealed(sock: socket.socket, parts: Sequence[Part], deadline_ns: int) -> None:
    """Seal and send at once."""
    Sealed(parts).send(sock, deadline_ns)


def receive_sealed(sock: socket.socket, size_bytes: int, deadline_ns: int) -> mmap.mmap:
    """The next message's bytes, which must be sealed and exactly `size_bytes`. Writing to them changes our copy only.

    Close it, or drop every reference, to give the memory back.
    """
    fd = _receive(sock, INPUT, _checked_size(size_bytes), deadline_ns)
    try:
        _check_seals(fd, ALL_SEALS)
        return mmap.mmap(fd, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)


class Lent:
    """Memory the judge lent for one answer. `collect` it once the answer has come, and `close` it in any case."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = _checked_size(size_bytes)
        self.fd: int | None = _memory(size_bytes)
        try:
            # Pages are made now, while no clock runs, and are the judge's: the sample only copies into them.
            os.posix_fallocate(self.fd, 0, size_bytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SIZE_SEALS)
        except OSError as error:
            self.close()
            raise SealedError(f"{size_bytes} bytes could not be lent: {error.strerror}") from error

    def send(self, sock: socket.socket, deadline_ns: int) -> None:
        """Give it to the sample for its next answer, which `fill_lent` takes."""
        if self.fd is None:
            raise SealedError("lent memory is sent before it is collected")
        _send(sock, OUTPUT, self.size_bytes, self.fd, deadline_ns)

    def collect(self) -> mmap.mmap:
        """All bytes, read-only and final. Raises SealedError when the sample can still write to them.

        Call it before the clock is stopped. The memory is given back when the mapping is closed or dropped.
        """
        if self.fd is None:
            raise SealedError("lent memory is collected once")
        try:
            _seal(self.fd, self.size_bytes)
            return mmap.mmap(self.fd, self.size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        finally:
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __enter__(self) -> Lent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lend(sock: socket.socket, size_bytes: int, deadline_ns: int) -> Lent:
    """Give the sample memory for its next answer, which `fill_lent` takes."""
    lent = Lent(size_bytes)
    try:
        lent.send(sock, deadline_ns)
    except BaseException:
        lent.close()
        raise
    return lent


def fill_lent(sock: socket.socket, parts: Sequence[Part], deadline_ns: int) -> None:
    """Put the bytes of `parts` into the memory lent next, which must have exactly that size, and let go of it."""
    views = _views(parts)
    fd = _receive(sock, OUTPUT, _checked_size(sum(view.nbytes for view in views)), deadline_ns)
    try:
        _check_seals(fd, SIZE_SEALS)
        _write(fd, views)
    finally:
        os.close(fd)


def _views(parts: Sequence[Part]) -> list[memoryview]:
    return [memoryview(part).cast("B") for part in parts]


def _checked_size(size_bytes: int) -> int:
    if not 0 < size_bytes <= MAX_SEALED_BYTES:
        raise SealedError(f"sealed memory holds 1 to {MAX_SEALED_BYTES} bytes, not {size_bytes}")
    return size_bytes


def _memory(size_bytes: int) -> int:
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, views: Sequence[memoryview]) -> None:
    """Write by position: a descriptor that was sent shares its offset with the other side."""
    offset = 0
    for view in views:
        end = offset + view.nbytes
        while offset < end:
            try:
                offset += os.pwrite(fd, view[view.nbytes - (end - offset) :], offset)
            except OSError as error:
                raise SealedError(f"the memory could not be filled: {error.strerror}") from error


def _seal(fd: int, size_bytes: int) -> None:
    """Everything.

    The kernel refuses (EBUSY) while a writable shared mapping is left, or another user holds a page; for a moment that may be
    the kernel itself, where it moves pages about. So the refusal counts once it has lasted `BUSY_S`.
    """
    until_s = time.monotonic() + BUSY_S
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL_SEALS)
            break
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until_s:
                message = f"the memory could not be sealed, it can still be written: {error.strerror}"
                raise SealedError(message) from error
        time.sleep(BUSY_S / 50)
    _check_seals(fd, ALL_SEALS)
    if os.fstat(fd).st_size != size_bytes:
        raise SealedError("the memory has changed its size")


def _check_seals(fd: int, wanted: int) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise SealedError("the descriptor is not of a memory file") from error
    if seals & wanted != wanted:
        raise SealedError(f"the memory has the seals {seals:#x}, expected are {wanted:#x}")


def _send(sock: socket.socket, purpose: bytes, size_bytes: int, fd: int, deadline_ns: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    while True:
        try:
            sock.sendmsg(
                [MESSAGE.pack(purpose, size_bytes)], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            )
            return
        except BlockingIOError:
            _wait(sock, select.POLLOUT, deadline_ns)
        except OSError as error:
            raise SealedError(f"the memory could not be sent: {error.strerror}") from error


def _receive(sock: socket.socket, purpose: bytes, size_bytes: int, deadline_ns: int) -> int:
    """The one descriptor of the next message, which the caller closes. Whatever else came is closed and refused."""
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    while True:
        try:
            data, ancillary, answer, _ = sock.recvmsg(
                MESSAGE.size + 1, socket.CMSG_SPACE(2 * DESCRIPTOR_BYTES), flags
            )
            break
        except BlockingIOError:
            _wait(sock, select.POLLIN, deadline_ns)
        except OSError as error:
            raise SealedError(f"no memory could be received: {error.strerror}") from error
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) // DESCRIPTOR_BYTES * DESCRIPTOR_BYTES])
    try:
        _check_message(data, fds, purpose, size_bytes, is_cut=bool(answer & socket.MSG_CTRUNC))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds[0]


def _check_message(
    data: bytes, fds: array.array[int], purpose: bytes, size_bytes: int, *, is_cut: bool
) -> None:
    if not data:
        raise SealedError("the other side has closed its end")
    if len(data) != MESSAGE.size or MESSAGE.unpack(data) != (purpose, size_bytes):
        raise SealedError(f"another message than the expected one: {data[:32]!r}")
    if is_cut or len(fds) != 1:
        raise SealedError(f"{len(fds)}{' or more' if is_cut else ''} descriptors came where one was expected")
    status = os.fstat(fds[0])
    if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
        raise SealedError(f"the descriptor is not of a memory file of {size_bytes} bytes")


def _wait(sock: socket.socket, event: int, deadline_ns: int) -> None:
    left_ms = -((time.perf_counter_ns() - deadline_ns) // 1_000_000)
    poll = select.poll()
    poll.register(sock, event)
    if left_ms <= 0 or not poll.poll(min(left_ms, MOST_POLL_MS)):
        raise SealedError(
            "nothing came within the time allowed"
            if event == select.POLLIN
            else "it was not received in time"
        )
