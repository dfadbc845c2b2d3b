"""Counting, limiting and freezing without a sandbox: polling, and cgroups of version 2 on files and on the kernel."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sandbox import Limits, SandboxError, python_runtime, spawn, starting
from benchmarks.sandbox.accounting import cgroup_v2, placement
from benchmarks.sandbox.accounting.cgroup_folders import read_key
from benchmarks.sandbox.accounting.cgroup_paths import Hierarchies, read_hierarchies
from benchmarks.sandbox.accounting.cgroup_v1 import CgroupV1
from benchmarks.sandbox.accounting.cgroup_v2 import CgroupV2
from benchmarks.sandbox.accounting.groups import CHARGED_WITHIN_S
from benchmarks.sandbox.accounting.placement import PREFIX, make_group, sweep
from benchmarks.sandbox.accounting.polled import PolledGroup
from benchmarks.sandbox.accounting.processes import (
    ProcessStat,
    cpu_clock_ns,
    memory_bytes,
    read_stat,
    start_ticks,
    thread_folders,
    tree,
)
from benchmarks.sandbox.levels import MIB
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip

pytestmark = pytest.mark.slow

SPIN = "import os\nos.fork()\nos.write(1, b'on\\n')\nwhile True: pass"
GROW = "import os, time\nos.fork()\nheld = bytearray(b'x') * (80 << 20)\ntime.sleep(60)"
# The first thread ends by itself and leaves a zombie to be seen; the others grow, or spin.
HEADLESS = """
import ctypes, os, threading, time
held = []
def work():
    held.append(bytearray(b'x') * (%d << 20))
    os.write(1, b'on')
    while True: pass
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(60, 0)
"""
THREADS = """
import os, threading
def spin():
    while True: pass
for _ in range(20): threading.Thread(target=spin).start()
os.write(1, b'on')
"""
FORK = "import os, time\n[os.fork() for _ in range(5)]\ntime.sleep(60)"


def start(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def end(process: "subprocess.Popen[bytes]") -> None:
    for stat in reversed(tree(process.pid)):
        os.kill(stat.pid, 9)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def spinning() -> Iterator["subprocess.Popen[bytes]"]:
    process = start(SPIN)
    assert process.stdout is not None
    assert process.stdout.read(6) == b"on\non\n"
    yield process
    end(process)


def test_polled_freezing_stops_a_whole_tree(spinning: "subprocess.Popen[bytes]") -> None:
    group = PolledGroup(Limits(), 2)
    group.add(spinning.pid)
    assert len(group.pids()) == 2
    group.freeze()
    time.sleep(CHARGED_WITHIN_S)
    before = group.cpu_ns()
    time.sleep(0.1)
    assert group.cpu_ns() == before
    group.thaw()
    time.sleep(0.1)
    assert group.cpu_ns() > before
    group.remove()
    assert group.cpu_ns() > before


def test_polled_freezing_stops_every_thread() -> None:
    """A process looks stopped by its first thread while others still run."""
    process = start(THREADS)
    assert process.stdout is not None and process.stdout.read(2) == b"on"
    group = PolledGroup(Limits(), 2)
    group.add(process.pid)
    for _ in range(50):
        group.freeze()
        states = [
            (folder / "stat").read_text().rpartition(")")[2].split()[0]
            for folder in thread_folders(process.pid)
        ]
        assert set(states) == {"T"} and len(states) == 21
        group.thaw()
    group.remove()
    end(process)


def test_a_process_whose_first_thread_has_ended_is_stopped_and_counted() -> None:
    process = start(HEADLESS % 80)
    assert process.stdout is not None and process.stdout.read(2) == b"on"
    stat = until_headless(process.pid)
    assert stat.is_alive and memory_bytes(process.pid) > 80 * MIB
    group = PolledGroup(Limits(), 2)
    group.add(process.pid)
    assert group.pids() == [process.pid]
    group.freeze()
    time.sleep(CHARGED_WITHIN_S)
    before = group.cpu_ns()
    time.sleep(0.1)
    assert group.cpu_ns() == before
    group.thaw()
    group.remove()
    end(process)


def test_memory_of_a_process_whose_first_thread_has_ended_is_limited() -> None:
    process = start(HEADLESS % 200)
    group = PolledGroup(Limits(memory_bytes=120 * MIB), 2)
    group.add(process.pid)
    assert process.wait(20) == -9
    assert group.exhausted() == "memory"
    group.remove()
    end(process)


def until_headless(pid: int) -> ProcessStat:
    deadline = time.monotonic() + 20
    while (stat := read_stat(pid)) is None or stat.state != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return stat


def test_polled_memory_is_that_of_all_processes_together() -> None:
    process = start(GROW)
    group = PolledGroup(Limits(memory_bytes=120 * MIB), 2)
    group.add(process.pid)
    assert process.wait(20) == -9
    assert group.exhausted() == "memory"
    assert group.peak_memory_bytes() > 120 * MIB
    group.remove()
    end(process)


def test_polled_counts_are_those_of_all_processes_together() -> None:
    process = start(FORK)
    group = PolledGroup(Limits(pids=8), 0)
    group.add(process.pid)
    assert process.wait(20) == -9
    assert group.exhausted() == "pids"
    group.remove()
    end(process)


def test_a_processes_clock_counts_its_dead_threads() -> None:
    code = "import threading, os\nt = threading.Thread(target=lambda: sum(range(50_000_000)))\nt.start(); t.join(); os.read(0, 1)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while cpu_clock_ns(process.pid) < 50_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cpu_clock_ns(process.pid) > 50_000_000
    process.kill()
    process.communicate()
    assert cpu_clock_ns(process.pid) == 0


def fake_v2(folder: Path) -> CgroupV2:
    """A cgroup of version 2 in a plain folder, as far as its files go."""
    return CgroupV2("sandbox", folder, Limits(memory_bytes=7 * MIB, pids=5, cores=(0, 1)), 2)


def test_version_2_writes_its_limits(tmp_path: Path) -> None:
    fake_v2(tmp_path)
    written = {path.name: path.read_text() for path in (tmp_path / "sandbox").iterdir()}
    assert written == {
        "memory.max": str(7 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "7",
    }


def test_version_2_reads_its_figures(tmp_path: Path) -> None:
    group = fake_v2(tmp_path)
    folder = tmp_path / "sandbox"
    (folder / "cpu.stat").write_text("usage_usec 1234\nuser_usec 1000\n")
    (folder / "cgroup.procs").write_text("12\n34\n")
    (folder / "memory.peak").write_text("4096\n")
    assert (group.cpu_ns(), group.pids(), group.peak_memory_bytes()) == (1_234_000, [12, 34], 4096)
    assert group.exhausted() is None
    (folder / "pids.events").write_text("max 3\n")
    assert group.exhausted() == "pids"
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.exhausted() == "memory"


def test_version_2_without_a_peak_file_keeps_the_highest_reading(tmp_path: Path) -> None:
    group = fake_v2(tmp_path)
    for current in (100, 300, 200):
        (tmp_path / "sandbox/memory.current").write_text(f"{current}\n")
        group.peak_memory_bytes()
    assert group.peak_memory_bytes() == 300


def test_version_2_freezes_by_the_kernels_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = fake_v2(tmp_path)
    monkeypatch.setattr(cgroup_v2, "FREEZE_TIMEOUT_S", 0.05)
    (tmp_path / "sandbox/cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(SandboxError, match="could not be frozen"):
        group.freeze()
    (tmp_path / "sandbox/cgroup.events").write_text("populated 1\nfrozen 1\n")
    group.freeze()
    assert (tmp_path / "sandbox/cgroup.freeze").read_text() == "1"
    group.thaw()
    assert (tmp_path / "sandbox/cgroup.freeze").read_text() == "0"


def writable_v2() -> Path:
    parent = read_hierarchies().v2
    if parent is None or not os.access(parent, os.W_OK):
        pytest.skip("expected: no writable cgroup v2 hierarchy")
    return parent


def test_version_2_freezes_real_processes(
    spinning: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The freezer and CPU time need no controller, so they are tried wherever a version-2 hierarchy is writable."""
    parent = writable_v2()
    monkeypatch.setattr(CgroupV2, "_configure", lambda *_: None)
    group = CgroupV2(f"gainshare-test-{os.getpid()}", parent, Limits(), 2)
    for stat in tree(spinning.pid):
        group.add(stat.pid)
    assert len(group.pids()) == 2
    group.freeze()
    time.sleep(CHARGED_WITHIN_S)
    before = group.cpu_ns()
    time.sleep(0.1)
    assert group.cpu_ns() == before
    group.thaw()
    time.sleep(0.1)
    assert group.cpu_ns() > before
    end(spinning)
    monkeypatch.setattr(CgroupV2, "peak_memory_bytes", lambda _: 0)
    group.remove()
    assert not (parent / f"gainshare-test-{os.getpid()}").exists()


@pytest.mark.sandbox
def test_a_sandbox_lives_and_dies_in_a_version_2_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no controller, on the kernel: placed, counted, frozen, killed while frozen, and the folder gone."""
    parent = writable_v2()
    if "memory" not in (parent / "cgroup.controllers").read_text().split():  # they belong to version 1 here
        monkeypatch.setattr(CgroupV2, "_configure", lambda *_: None)
        monkeypatch.setattr(CgroupV2, "peak_memory_bytes", lambda _: 0)
    folder = parent / f"gainshare-test-{os.getpid()}-life"
    monkeypatch.setattr(starting, "make_group", lambda *limits: CgroupV2(folder.name, parent, *limits))
    python = python_runtime()
    with spawn(
        [*python.argv, "-c", SPIN],
        level=level_or_skip("best"),
        mounts=python.mounts,
        limits=Limits(wall_s=30),
        env=python.env,
        slot=0,
    ) as sample:
        assert sample.stdout.read(3) == b"on\n"
        assert sample.stdout.read(3) == b"on\n"
        pids = sample.pids()
        assert len(pids) >= 4  # bubblewrap, its init, the two that spin
        sample.freeze()
        time.sleep(CHARGED_WITHIN_S)
        before = sample.cpu_ns()
        time.sleep(0.1)
        assert sample.cpu_ns() - before < 1_000_000
        sample.thaw()
        time.sleep(0.1)
        assert sample.cpu_ns() - before > 10_000_000
        sample.freeze()
        assert sample.kill() >= 1
        assert [stat for pid in pids if (stat := read_stat(pid)) and stat.is_alive] == []
    assert not folder.exists()
    assert sample.cpu_ns() > 0


def test_machines_without_cgroups_are_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "usable_hierarchies", lambda: Hierarchies({}, None))
    assert make_group(Limits(), 2).kind == "polled"


def test_a_group_that_cannot_be_configured_leaves_no_folder(tmp_path: Path) -> None:
    """Plain folders take the first file, but the second controller's parent is missing."""
    parents = dict.fromkeys(("memory", "pids", "freezer", "cpuacct"), tmp_path)
    with pytest.raises((OSError, SandboxError)):
        CgroupV1("sandbox", parents | {"pids": tmp_path / "absent"}, Limits(), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_spares_the_living(tmp_path: Path) -> None:
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    own, beside = tmp_path / "own", tmp_path / "beside"
    mine = own / f"{PREFIX}{namespace}-{os.getpid()}-{start_ticks(os.getpid())}-0"
    elsewhere = own / f"{PREFIX}{namespace + 1}-{2**22 + 1}-1-0"
    kept = [mine, elsewhere, own / "user.slice", own / f"{PREFIX}strange"]
    reused = own / f"{PREFIX}{namespace}-{os.getpid()}-1-0"
    dead = own / f"{PREFIX}{namespace}-{2**22 + 1}-1-0"
    dead_beside = beside / f"{PREFIX}{namespace}-{2**22 + 1}-1-trial"
    for folder in (*kept, reused, dead, dead_beside):
        folder.mkdir(parents=True)
    assert sweep({own}) == 3
    assert sorted(own.iterdir()) == sorted(kept)
    assert list(beside.iterdir()) == []


def test_names_of_processes_do_not_confuse_the_reader() -> None:
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b') S 1 (', 0, 0, 0); print('on', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    stat = read_stat(process.pid)
    assert stat is not None
    assert stat.parent == os.getpid()
    process.communicate(b"\n")


def test_missing_files_and_keys_count_as_zero(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("max 3\nmax_other 4\n")
    assert read_key(tmp_path / "events", "max") == 3
    assert read_key(tmp_path / "events", "oom_kill") == 0
    assert read_key(tmp_path / "absent", "max") == 0
