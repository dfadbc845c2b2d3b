"""Sealed memory: what is sent is final, what is lent comes back final, and everything else is refused and leaks nothing."""

import errno
import fcntl
import mmap
import os
import socket
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pairs.wire import sealed
from benchmarks.pairs.wire.sealed import (
    ALL_SEALS,
    INPUT,
    MAX_SEALED_BYTES,
    MESSAGE,
    OUTPUT,
    SIZE_SEALS,
    Lent,
    SealedError,
    fill_lent,
    lend,
    receive_sealed,
    send_sealed,
)
from benchmarks.sandbox.levels import LENT_BYTES, MIB, SOCKET_VARIABLE

pytestmark = pytest.mark.slow

SIZE = 3 * 4096 + 5
Ends = tuple[socket.socket, socket.socket]


def soon(seconds: float = 5.0) -> int:
    return time.perf_counter_ns() + int(seconds * 1e9)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The judge's end and the sample's. No descriptor is left behind by any test."""
    before = open_fds()
    judge, sample = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield judge, sample
    judge.close()
    sample.close()
    assert open_fds() == before


def memory(size: int = SIZE, seals: int = ALL_SEALS) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def pass_on(sock: socket.socket, fds: list[int], message: bytes = MESSAGE.pack(INPUT, SIZE)) -> None:
    """Sends the descriptors and closes ours."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sock.sendmsg([message], rights)
    for fd in fds:
        os.close(fd)


def test_parts_arrive_as_one_run_of_bytes(ends: Ends) -> None:
    judge, sample = ends
    numbers = np.arange(1000, dtype=np.int32).reshape(10, 100)
    send_sealed(judge, [b"first", numbers.data, bytearray(b"last")], soon())
    content = receive_sealed(sample, 4009, soon())
    assert content[:] == b"first" + numbers.tobytes() + b"last"
    content.close()


def test_the_receivers_writes_stay_its_own(ends: Ends) -> None:
    judge, sample = ends
    fd = memory()
    pass_on(judge, [os.dup(fd)])
    content = receive_sealed(sample, SIZE, soon())
    content[:4] = b"mine"
    assert os.pread(fd, 4, 0) == b"\0\0\0\0"
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    content.close()
    os.close(fd)


def test_lent_memory_comes_back_final(ends: Ends) -> None:
    judge, sample = ends
    kept: list[int] = []
    lent = lend(judge, SIZE, soon())
    assert lent.fd is not None
    kept.append(os.dup(lent.fd))  # a sample that keeps its descriptor
    fill_lent(sample, [b"a" * 5, b"b" * (SIZE - 5)], soon())
    content = lent.collect()
    assert content[:] == b"a" * 5 + b"b" * (SIZE - 5)
    with pytest.raises(PermissionError):
        os.pwrite(kept[0], b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(kept[0], SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(TypeError):
        content[0] = 1
    with pytest.raises(SealedError, match="once"):
        lent.collect()
    content.close()
    os.close(kept[0])


def test_memory_that_can_still_be_written_is_not_collected(ends: Ends) -> None:
    """A writable mapping would change bytes after the clock has stopped."""
    judge, sample = ends
    lent = lend(judge, SIZE, soon())
    assert lent.fd is not None
    window = mmap.mmap(lent.fd, SIZE)
    fill_lent(sample, [b"x" * SIZE], soon())
    with pytest.raises(SealedError, match="still be written"):
        lent.collect()
    assert lent.fd is None
    window.close()


def test_a_writer_in_the_middle_of_its_work_cannot_change_what_was_collected(ends: Ends) -> None:
    judge, sample = ends
    size = 8 * MIB
    lent = lend(judge, size, soon())
    assert lent.fd is not None
    fd, stopped = os.dup(lent.fd), threading.Event()

    def write() -> None:
        value = 0
        while True:
            value = (value + 1) % 256
            try:
                os.pwrite(fd, bytes([value]) * size, 0)
            except PermissionError:
                stopped.set()
                return

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.05)
    content = lent.collect()
    first = content[:]
    writer.join(10)
    assert stopped.is_set()
    assert content[:] == first
    content.close()
    os.close(fd)
    os.close(sealed._receive(sample, OUTPUT, size, soon()))  # what was lent and never taken


def test_a_sample_cannot_forbid_the_seal_unseen(ends: Ends) -> None:
    judge, sample = ends
    lent = lend(judge, SIZE, soon())
    assert lent.fd is not None
    fcntl.fcntl(lent.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    with pytest.raises(SealedError, match="could not be sealed"):
        lent.collect()
    with pytest.raises(SealedError, match="another message"):
        fill_lent(sample, [b"x"], soon())  # it was lent more than it fills


def test_lent_memory_keeps_its_size(ends: Ends) -> None:
    judge, sample = ends
    with lend(judge, SIZE, soon()) as lent:
        assert lent.fd is not None
        for size in (0, SIZE - 1, SIZE + 1, 1 << 40):
            with pytest.raises(PermissionError):
                os.ftruncate(lent.fd, size)
        with pytest.raises(PermissionError):
            os.pwrite(lent.fd, b"x", SIZE)
    assert lent.fd is None
    fill_lent(sample, [b"x" * SIZE], soon())  # the sample's own descriptor still works, to no one's harm


HOSTILE = {
    "unsealed": lambda: [memory(seals=0)],
    "only its size is sealed": lambda: [memory(seals=SIZE_SEALS)],
    "seals that may still grow": lambda: [memory(seals=ALL_SEALS & ~fcntl.F_SEAL_SEAL)],
    "longer": lambda: [memory(SIZE + 1)],
    "shorter": lambda: [memory(SIZE - 1)],
    "huge and sparse": lambda: [memory(1 << 40)],
    "a file of the right size": lambda: [regular_file()],
    "a pipe": lambda: [one_of(os.pipe())],
    "a device": lambda: [os.open("/dev/zero", os.O_RDWR)],
    "a folder": lambda: [os.open("/", os.O_RDONLY)],
    "two": lambda: [memory(), memory()],
    "three": lambda: [memory(), memory(), memory()],
    "two hundred": lambda: [memory() for _ in range(200)],
    "none": list,
}


def regular_file() -> int:
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)  # tmpfs, like a memory file, but not sealable
    os.ftruncate(fd, SIZE)
    return fd


def one_of(fds: tuple[int, int]) -> int:
    os.close(fds[1])
    return fds[0]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_descriptor_that_is_not_the_one_due_is_refused_and_closed(ends: Ends, kind: str) -> None:
    judge, sample = ends
    pass_on(judge, HOSTILE[kind]())
    held = open_fds()
    with pytest.raises(SealedError):
        receive_sealed(sample, SIZE, soon())
    assert open_fds() == held
    send_sealed(judge, [b"y" * SIZE], soon())  # the next message is not touched by it
    receive_sealed(sample, SIZE, soon()).close()


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE.pack(OUTPUT, SIZE),
        MESSAGE.pack(INPUT, SIZE + 1),
        MESSAGE.pack(INPUT, SIZE)[:-1],
        MESSAGE.pack(INPUT, SIZE) + b"x",
        b"x" * 10_000,
        b"",
    ],
    ids=["another purpose", "another size", "short", "long", "very long", "empty"],
)
def test_a_message_that_is_not_the_one_due_is_refused(ends: Ends, message: bytes) -> None:
    judge, sample = ends
    pass_on(judge, [memory()], message)
    with pytest.raises(SealedError):
        receive_sealed(sample, SIZE, soon())


def test_credentials_instead_of_descriptors_are_refused(ends: Ends) -> None:
    judge, sample = ends
    sample.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    pass_on(judge, [])
    with pytest.raises(SealedError):
        receive_sealed(sample, SIZE, soon())


@pytest.mark.parametrize("size", [0, -1, MAX_SEALED_BYTES + 1])
def test_sizes_are_capped_before_anything_is_made(ends: Ends, size: int) -> None:
    judge, sample = ends
    for act in (lambda: receive_sealed(sample, size, soon()), lambda: lend(judge, size, soon())):
        with pytest.raises(SealedError, match="holds 1 to"):
            act()
    with pytest.raises(SealedError, match="holds 1 to"):
        send_sealed(judge, [], soon())


def test_nothing_waits_beyond_its_deadline(ends: Ends) -> None:
    judge, sample = ends
    for act in (
        lambda: receive_sealed(sample, SIZE, soon(0.05)),
        lambda: fill_lent(sample, [b"x"], soon(0.05)),
        lambda: receive_sealed(sample, SIZE, soon(-1)),
    ):
        started = time.monotonic()
        with pytest.raises(SealedError, match="within the time"):
            act()
        assert time.monotonic() - started < 2
    started = time.monotonic()
    with pytest.raises(SealedError, match="in time"):  # no one reads, so the queue is full at last
        for _ in range(10_000):
            send_sealed(judge, [b"x"], soon(0.05))
    assert time.monotonic() - started < 5
    with pytest.raises(SealedError):
        lend(judge, SIZE, soon(0.05))


def test_a_closed_end_is_no_endless_wait(ends: Ends) -> None:
    judge, sample = ends
    judge.close()
    with pytest.raises(SealedError, match="closed"):
        receive_sealed(sample, SIZE, soon())
    judge, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.close()
    with pytest.raises(SealedError, match="could not be sent"):
        send_sealed(judge, [b"x"], soon())
    judge.close()


def test_lent_memory_is_given_back_on_every_path() -> None:
    before = open_fds()
    with pytest.raises(RuntimeError, match="on the way"), Lent(SIZE):
        raise RuntimeError("on the way")
    Lent(SIZE).collect().close()
    assert open_fds() == before


def test_the_two_halves_name_the_same_things() -> None:
    """The module is mounted alone, so it cannot import the sandbox's words."""
    assert sealed.SOCKET_VARIABLE == SOCKET_VARIABLE
    assert sealed.MAX_SEALED_BYTES == LENT_BYTES


def test_a_sample_without_a_socket_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    with pytest.raises(SealedError, match="started without a socket"):
        sealed.inherited_socket()


def test_a_page_that_the_kernel_holds_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    add, refusals = fcntl.fcntl, [OSError(errno.EBUSY, "held")] * 3

    def held(fd: int, command: int, argument: int = 0) -> int:
        if argument == sealed.ALL_SEALS and refusals:
            raise refusals.pop()
        return add(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", held)
    sealed.Sealed([b"content"]).close()
    assert not refusals
    refusals = [OSError(errno.EINVAL, "no such seal")]
    with pytest.raises(SealedError, match="no such seal"):
        sealed.Sealed([b"content"])
