"""A live sample: talk, freeze, thaw, count, limit, kill. Runs at whatever level this machine and user have."""

import io
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pairs.cores import pin
from benchmarks.sandbox import Limits, Mount, Sample, SandboxError, SandboxLevel, python_runtime, spawn
from benchmarks.sandbox.accounting.groups import CHARGED_WITHIN_S
from benchmarks.sandbox.accounting.placement import PREFIX, sweep, usable_hierarchies
from benchmarks.sandbox.accounting.processes import read_stat, tree
from benchmarks.sandbox.isolation import container
from benchmarks.sandbox.levels import MIB
from tests.benchmarks.sandbox.sandbox_levels import LEVELS, level_or_skip
from tests.needs import only_root

pytestmark = pytest.mark.sandbox

REVERSE = """
import struct, sys
receive, send = sys.stdin.buffer, sys.stdout.buffer
while len(header := receive.read(4)) == 4:
    body = receive.read(struct.unpack("<I", header)[0])
    send.write(header + body[::-1])
    send.flush()
"""
SPIN = "print('on', flush=True)\nwhile True: pass"
WAIT = "import sys; print('on', flush=True); sys.stdin.read()"


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> SandboxLevel:
    return level_or_skip(request.param)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No cgroup and no folder of this process outlives a test."""
    yield
    assert list(groups()) == []
    assert bundles(os.getpid()) == []


def groups() -> Iterator[Path]:
    hierarchies = usable_hierarchies()
    for parent in {*hierarchies.v1.values(), *filter(None, [hierarchies.v2])}:
        yield from parent.glob(f"{PREFIX}*-{os.getpid()}-*")


def bundles(pid: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{container.PREFIX}*-{pid}-*"))


def start(level: SandboxLevel, code: str, **options: Any) -> Sample:
    python = python_runtime()
    options.setdefault("limits", Limits(wall_s=30))
    mounts = [*python.mounts, *options.pop("mounts", [])]
    options.setdefault("slot", 0)
    return spawn([*python.argv, "-c", code], level=level, mounts=mounts, env=python.env, **options)


def read_exactly(sample: Sample, count: int) -> bytes:
    content = b""
    while len(content) < count and (chunk := sample.stdout.read(count - len(content))):
        content += chunk
    return content


def await_start(sample: Sample) -> None:
    assert read_exactly(sample, 3) == b"on\n", sample.log()


def is_alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.is_alive


def test_frames_go_in_and_come_back(level: SandboxLevel) -> None:
    body = bytes(range(256)) * 1000
    with start(level, REVERSE) as sample:
        for part in (body, b"", b"second"):
            frame = struct.pack("<I", len(part)) + part
            writer = threading.Thread(target=sample.stdin.write, args=(frame,))
            writer.start()
            assert read_exactly(sample, len(frame)) == struct.pack("<I", len(part)) + part[::-1]
            writer.join()
        sample.stdin.close()
        assert sample.wait(10) == 0


def test_torch_computes_inside(level: SandboxLevel) -> None:
    code = (
        "import torch, threading, subprocess\n"
        "torch.set_num_threads(1)\n"
        "worker = threading.Thread(target=lambda: print(int(torch.ones(64, 64).matmul(torch.ones(64, 64)).sum())))\n"
        "worker.start(); worker.join()\n"
        "print(subprocess.run(['/bin/echo', 'child'], capture_output=True, text=True, check=True).stdout, end='')\n"
    )
    with start(level, code) as sample:
        output = sample.stdout.read(100) or b""
        output += sample.stdout.read(100) or b""
        assert output == b"262144\nchild\n", sample.log()


ENOUGH_NS = 10_000_000  # of CPU time, to say that it runs


def used_frozen_and_thawed(sample: Sample) -> tuple[int, int]:
    """CPU time that it uses in a tenth of a second while frozen, and afterwards until it has had a core for a while."""
    sample.freeze()
    time.sleep(CHARGED_WITHIN_S)
    readings = [sample.cpu_ns()]
    time.sleep(0.1)
    readings.append(sample.cpu_ns())
    sample.thaw()
    deadline = time.monotonic() + 10  # on a busy machine its turn comes late
    while (used_ns := sample.cpu_ns() - readings[1]) < ENOUGH_NS and time.monotonic() < deadline:
        time.sleep(0.02)
    return readings[1] - readings[0], used_ns


def test_a_frozen_sample_uses_no_cpu_and_continues_after(level: SandboxLevel) -> None:
    with start(level, SPIN) as sample:
        await_start(sample)
        for _ in range(3):
            frozen_ns, thawed_ns = used_frozen_and_thawed(sample)
            assert frozen_ns < 1_000_000
            assert thawed_ns >= ENOUGH_NS


def test_a_frozen_sample_does_not_answer(level: SandboxLevel) -> None:
    with start(level, REVERSE) as sample:
        sample.stdin.write(struct.pack("<I", 1) + b"x")
        assert read_exactly(sample, 5)
        sample.freeze()
        sample.stdin.write(struct.pack("<I", 1) + b"y")
        os.set_blocking(sample.stdout.fileno(), False)
        time.sleep(0.1)
        assert sample.stdout.read(1) is None
        sample.thaw()
        os.set_blocking(sample.stdout.fileno(), True)
        assert read_exactly(sample, 5)[4:] == b"y"


def test_kill_ends_the_whole_tree_and_counts_it(level: SandboxLevel) -> None:
    code = (
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); time.sleep(60)\n"
        "print('on', flush=True); time.sleep(60)"
    )
    with start(level, code) as sample:
        await_start(sample)
        pids = sample.pids()
        assert len(pids) >= 5
        assert sample.kill() >= 1
        assert not any(is_alive(pid) for pid in pids)
        assert sample.pids() == []
        assert sample.kill() == 0
        assert sample.returncode is not None
        assert list(groups()) == []


def test_a_frozen_sample_can_be_killed(level: SandboxLevel) -> None:
    with start(level, SPIN) as sample:
        await_start(sample)
        sample.freeze()
        pids = sample.pids()
        sample.kill()
        assert not any(is_alive(pid) for pid in pids)


def test_figures_stay_readable_after_the_end(level: SandboxLevel) -> None:
    with start(level, "held = b'x' * (64 << 20); print('on', flush=True); sum(range(3_000_000))") as sample:
        await_start(sample)
        sample.wait(10)
    assert sample.returncode == 0
    assert sample.cpu_ns() > 0
    assert sample.limit_hit() is None
    sample.close()


def test_peak_memory_is_the_peak(level: SandboxLevel) -> None:
    code = "held = bytearray(b'x') * (100 << 20); print('on', flush=True); del held; import time; time.sleep(0.2)"
    with start(level, code) as sample:
        await_start(sample)
        time.sleep(0.1)
        assert 100 * MIB < sample.peak_memory_bytes() < 300 * MIB


def test_too_much_memory_is_a_resource_limit(level: SandboxLevel) -> None:
    code = "held = []\nwhile True: held.append(bytearray(b'x') * (1 << 20))"
    with start(level, code, limits=Limits(memory_bytes=128 * MIB, wall_s=20)) as sample:
        sample.wait(20)
        assert sample.limit_hit() == "memory"
        assert sample.peak_memory_bytes() < 256 * MIB


def test_the_wall_clock_ends_everything(level: SandboxLevel) -> None:
    with start(level, SPIN, limits=Limits(wall_s=0.5)) as sample:
        await_start(sample)
        pids = sample.pids()
        assert sample.wait(10) != 0
        deadline = time.monotonic() + 5
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(is_alive, pids))
        assert sample.limit_hit() == "wall"


def test_a_sample_is_pinned_and_cannot_leave(level: SandboxLevel) -> None:
    core = max(os.sched_getaffinity(0))
    code = (
        "import os\n"
        "try: os.sched_setaffinity(0, range(os.cpu_count()))\n"
        "except PermissionError: pass\n"
        "print(sorted(os.sched_getaffinity(0)))"
    )
    with start(level, code, limits=Limits(cores=(core,), wall_s=10)) as sample:
        assert sample.stdout.read(100) == f"[{core}]\n".encode()


def test_a_sample_begins_on_its_first_core_and_is_moved_from_outside_only(level: SandboxLevel) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        pytest.skip("expected: this machine gives one core")
    first, other = cores[0], cores[-1]
    code = (
        "import os\n"
        "for _ in range(2):\n"
        "    try: os.sched_setaffinity(0, range(os.cpu_count()))\n"
        "    except PermissionError: pass\n"
        "    print(sorted(os.sched_getaffinity(0)), flush=True)\n"
        "    input()\n"
    )
    limits = Limits(cores=(first, other), first_core=first, wall_s=10)
    with start(level, code, limits=limits) as sample:
        assert sample.stdout.readline() == f"[{first}]\n".encode()
        sample.freeze()
        pin(sample.pids(), other)
        sample.thaw()
        sample.stdin.write(b"\n")
        sample.stdin.flush()
        assert sample.stdout.readline() == f"[{other}]\n".encode()


def test_stderr_is_forwarded_and_kept_within_its_cap(level: SandboxLevel) -> None:
    sink = io.BytesIO()
    code = "import sys; sys.stderr.write('first' + '.' * 5_000 + 'last')"
    with start(level, code, limits=Limits(log_bytes=1000, wall_s=10), stderr=sink) as sample:
        sample.wait(10)
    assert sample.log().startswith(b"first")
    assert sample.log().endswith(b"last")
    assert len(sample.log()) < 1100
    assert len(sink.getvalue()) < 1100


def test_only_what_is_mounted_is_there_and_it_is_read_only(level: SandboxLevel, open_folder: Path) -> None:
    open_folder.chmod(0o755)
    (open_folder / "model").mkdir()
    (open_folder / "model/x.py").write_text("x = 1")
    (open_folder / "beside").write_text("not mounted")
    code = (
        "import os, pathlib\n"
        "print(sorted(os.listdir('/tree')), pathlib.Path('/tree/model/x.py').read_text())\n"
        "for path in ('/tree/model/y.py', '/tree/y.py', '/y', '/etc/y', '/usr/y', '/packages/y'):\n"
        "    try: open(path, 'w'); print('written', path)\n"
        "    except OSError: pass\n"
        "for path in ('/work/y', '/tmp/y', '/dev/shm/y'):\n"
        "    open(path, 'w').write('scratch')\n"
    )
    with start(level, code, mounts=[Mount(open_folder / "model", "/tree/model")]) as sample:
        sample.wait(10)
        assert sample.stdout.read(1000) == b"['model'] x = 1\n"
        assert sample.log() == b""


def test_a_missing_mount_is_named(level: SandboxLevel) -> None:
    with pytest.raises(SandboxError, match="/nowhere/at/all cannot be mounted at /tree"):
        start(level, "", mounts=[Mount(Path("/nowhere/at/all"), "/tree")])


@only_root  # only then a sample is another user
def test_an_unreadable_mount_is_named(level: SandboxLevel, open_folder: Path) -> None:
    (open_folder / "closed").mkdir(mode=0o700)
    with pytest.raises(SandboxError, match="chmod"):
        start(level, "", mounts=[Mount(open_folder / "closed", "/tree")])


def test_two_live_samples_have_different_identities(level: SandboxLevel) -> None:
    code = "import os; print(os.getuid(), flush=True); os.read(0, 1)"
    with start(level, code, slot=0) as first, start(level, code, slot=1) as second:
        uids = (first.stdout.read(20), second.stdout.read(20))
        assert (uids[0] != uids[1]) == (os.geteuid() == 0)
        for kind in ("pid", "net", "mnt", "ipc"):
            names = {Path(f"/proc/{sample.pids()[-1]}/ns/{kind}").readlink() for sample in (first, second)}
            assert len(names | {Path(f"/proc/self/ns/{kind}").readlink()}) == 3


def test_a_sample_outlives_the_thread_that_started_it(level: SandboxLevel) -> None:
    samples: list[Sample] = []
    starter = threading.Thread(target=lambda: samples.append(start(level, REVERSE)))
    starter.start()
    starter.join()
    with samples[0] as sample:
        time.sleep(0.1)
        sample.stdin.write(struct.pack("<I", 2) + b"ab")
        assert read_exactly(sample, 6)[4:] == b"ba"


JUDGE = """
import sys, time
from benchmarks.sandbox import Limits, SandboxLevel, python_runtime, spawn
python = python_runtime()
samples = [
    spawn([*python.argv, "-c", "print('on', flush=True)\\nwhile True: pass"], level=SandboxLevel(sys.argv[1]), mounts=python.mounts,
          limits=Limits(), env=python.env, slot=slot)
    for slot in (0, 1)
]
for sample in samples: assert sample.stdout.read(2) == b"on"
samples[1].freeze()
print(*(pid for sample in samples for pid in sample.pids()), flush=True)
time.sleep(60)
"""


def test_a_killed_judge_leaves_nothing_that_the_next_does_not_clear(level: SandboxLevel) -> None:
    """Running samples die with it. A frozen one cannot, until the sweep of the next judge thaws it."""
    judge = subprocess.Popen([sys.executable, "-c", JUDGE, level.value], stdout=subprocess.PIPE, text=True)
    assert judge.stdout is not None
    pids = [int(pid) for pid in judge.stdout.readline().split()]
    assert len(pids) >= 4
    assert len(tree(judge.pid)) > 4
    judge.send_signal(signal.SIGKILL)
    judge.wait()
    judge.stdout.close()
    hierarchies = usable_hierarchies()
    parents = {*hierarchies.v1.values(), *filter(None, [hierarchies.v2])}
    time.sleep(0.2)
    removed = sweep(parents)
    assert (removed > 0) == bool(parents)
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, pids))
    assert [folder for parent in parents for folder in parent.glob(f"{PREFIX}*-{judge.pid}-*")] == []
    assert len(bundles(judge.pid)) == (2 if level is SandboxLevel.CONTAINER else 0)
    container.make_bundle_folder().rmdir()
    assert bundles(judge.pid) == []


def test_the_unconfined_level_speaks_the_same_protocol() -> None:
    with start(SandboxLevel.NONE, REVERSE) as sample:
        sample.stdin.write(struct.pack("<I", 2) + b"ab")
        assert read_exactly(sample, 6)[4:] == b"ba"
    with start(SandboxLevel.NONE, SPIN) as sample:
        await_start(sample)
        frozen_ns, thawed_ns = used_frozen_and_thawed(sample)
        assert frozen_ns == 0
        assert thawed_ns >= ENOUGH_NS
