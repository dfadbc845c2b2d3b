"""Sealed memory between the judge and samples in real sandboxes, hostile ones too."""

import mmap
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pairs.wire import sealed
from benchmarks.pairs.wire.sealed import (
    SealedError,
    lend,
    send_sealed,
)
from benchmarks.sandbox import (
    Limits,
    Mount,
    Sample,
    SandboxLevel,
    python_runtime,
    spawn,
)
from benchmarks.sandbox.levels import MIB
from tests.benchmarks.pairs.test_sealed import open_fds, soon
from tests.benchmarks.sandbox.sandbox_levels import LEVELS, level_or_skip

pytestmark = pytest.mark.slow


ECHO = """
import os, sys, time
sys.path.insert(0, "/harness")
import sealed
sock = sealed.inherited_socket()
def soon(): return time.perf_counter_ns() + 10_000_000_000
while size := os.read(0, 20).strip():
    data = sealed.receive_sealed(sock, int(size), soon())
    HOLD
    os.write(1, b"done\\n")
"""


FILL = "sealed.fill_lent(sock, [memoryview(data)], soon())"


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> SandboxLevel:
    return level_or_skip(request.param)


def start(level: SandboxLevel, code: str, **limits: object) -> Sample:
    python = python_runtime()
    return spawn(
        [*python.argv, "-c", code],
        level=level,
        mounts=[*python.mounts, Mount(Path(sealed.__file__), "/harness/sealed.py")],
        limits=Limits(wall_s=30, **limits),  # type: ignore[arg-type]
        env=python.env,
        slot=0,
        has_socket=True,
    )


def exchange(sample: Sample, data: bytes) -> mmap.mmap:
    assert sample.socket is not None
    send_sealed(sample.socket, [data], soon())
    with lend(sample.socket, len(data), soon()) as lent:
        sample.stdin.write(b"%d\n" % len(data))
        answer = sample.stdout.read(5)
        assert answer == b"done\n", sample.log()
        return lent.collect()


@pytest.mark.sandbox
@pytest.mark.parametrize("place", ["confined", "none"])
def test_sixteen_megabytes_go_into_a_sandbox_and_come_back(level: SandboxLevel, place: str) -> None:
    before = open_fds()
    data = np.random.default_rng(1).bytes(16 * MIB)
    code = ECHO.replace("HOLD", FILL)
    if place == "none":
        code = code.replace("/harness", str(Path(sealed.__file__).parent))
    with start(level if place == "confined" else SandboxLevel.NONE, code) as sample:
        for _ in range(3):
            content = exchange(sample, data)
            assert content[:] == data
            content.close()
    assert open_fds() == before


@pytest.mark.sandbox
def test_more_than_a_scratch_file_may_hold_fits_into_lent_memory(level: SandboxLevel) -> None:
    data = b"x" * (9 * MIB)
    with start(level, ECHO.replace("HOLD", FILL), scratch_bytes=8 * MIB) as sample:
        content = exchange(sample, data)
        assert content[:] == data
        content.close()


@pytest.mark.sandbox
def test_a_hostile_sample_that_keeps_a_writable_window_is_refused(level: SandboxLevel) -> None:
    keep = "fd = sealed._receive(sock, sealed.OUTPUT, len(data), soon()); import mmap; window = mmap.mmap(fd, len(data))"
    with start(level, ECHO.replace("HOLD", keep)) as sample:
        with pytest.raises(SealedError, match="still be written"):
            exchange(sample, b"x" * MIB)


@pytest.mark.sandbox
def test_a_sample_can_send_nothing_through_its_socket(level: SandboxLevel) -> None:
    """Neither bytes nor descriptors: its only way out is the pipe."""
    code = (
        "import array, os, socket\n"
        "sock = socket.socket(fileno=int(os.environ['SANDBOX_SOCKET_FD']))\n"
        "for rights in ([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))]):\n"
        "    try: sock.sendmsg([b'x'], rights, socket.MSG_NOSIGNAL)\n"
        "    except BrokenPipeError: print('refused', flush=True)\n"
    )
    with start(level, code) as sample:
        assert sample.wait(10) == 0, sample.log()
        assert sample.stdout.read(100) == b"refused\nrefused\n"
        assert sample.socket is not None
        assert sample.socket.recv(1, socket.MSG_DONTWAIT) == b""


@pytest.mark.sandbox
@pytest.mark.parametrize("has_socket", [True, False])
def test_a_sample_starts_with_exactly_the_descriptors_it_was_promised(
    level: SandboxLevel, has_socket: bool
) -> None:
    python = python_runtime()
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    code = (
        "import os\n"
        "found = []\n"
        "for fd in range(4096):\n"
        "    try: found.append((fd, os.readlink(f'/proc/self/fd/{fd}').split(':')[0]))\n"
        "    except OSError: pass\n"
        "print(found, os.environ.get('SANDBOX_SOCKET_FD'))\n"
    )
    with spawn(
        [*python.argv, "-c", code],
        level=level,
        mounts=python.mounts,
        limits=Limits(wall_s=10),
        env=python.env,
        slot=0,
        has_socket=has_socket,
    ) as sample:
        sample.wait(10)
        answer = (sample.stdout.read(1000) or b"").decode()
    os.close(reader)
    os.close(writer)
    pipes = [(0, "pipe"), (1, "pipe"), (2, "pipe")]
    expected = f"{[*pipes, (3, 'socket')]} 3\n" if has_socket else f"{pipes} None\n"
    assert answer == expected


@pytest.mark.sandbox
def test_the_end_of_a_sample_is_seen_at_its_socket(level: SandboxLevel) -> None:
    """No process of ours inside the sandbox holds its end open."""
    with start(level, "print('on', flush=True)") as sample:
        sample.wait(10)
        assert sample.socket is not None
        with pytest.raises(SealedError, match="could not be sent"):
            send_sealed(sample.socket, [b"x"], soon())


@pytest.mark.sandbox
def test_memory_files_of_a_samples_own_cannot_be_made(level: SandboxLevel) -> None:
    """A bomb of memory files, which no process need map, cannot even begin."""
    code = (
        "import os\n"
        "try: os.memfd_create('bomb')\n"
        "except OSError as error: print(error.strerror, flush=True)\n"
    )
    with start(level, code) as sample:
        assert sample.wait(10) == 0
        assert sample.stdout.read(100) == b"Function not implemented\n"


@pytest.mark.sandbox
def test_what_a_sample_makes_of_its_input_counts_against_it(level: SandboxLevel) -> None:
    """Its private copy of what it was sent is its own memory, and ends it where it is too much."""
    hold = "kept = [bytearray(data) for _ in range(64)]"
    with start(level, ECHO.replace("HOLD", hold), memory_bytes=100 * MIB) as sample:
        assert sample.socket is not None
        send_sealed(sample.socket, [b"x" * (16 * MIB)], soon())
        sample.stdin.write(b"%d\n" % (16 * MIB))
        sample.wait(20)
        assert sample.limit_hit() == "memory"
