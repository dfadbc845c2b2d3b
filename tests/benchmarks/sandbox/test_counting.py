"""CPU time and memory where nothing but processes can be counted: short ones, hidden ones, ones that no one reaps."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sandbox import Limits
from benchmarks.sandbox.accounting.groups import COUNTED_BY
from benchmarks.sandbox.accounting.polled import POLL_S, PolledGroup
from benchmarks.sandbox.accounting.processes import tree
from benchmarks.sandbox.accounting.reaping import Reaper
from benchmarks.sandbox.levels import MIB
from tests.benchmarks.sandbox.ordinary_user import CHECKOUT, in_sandbox_as_user

pytestmark = pytest.mark.sandbox

#: A judge that an ordinary user runs; each test adds what it does and prints JSON.
JUDGE = r"""
import json, os, sys, time
from benchmarks.sandbox import Limits, best_level, python_runtime, run, spawn
assert os.geteuid() != 0
python, level = python_runtime(), best_level()
def options(**limits):
    return dict(level=level, mounts=python.mounts, limits=Limits(**limits), env=python.env, slot=0)
def start(code, **limits):
    sample = spawn([*python.argv, "-c", code], **options(**limits))
    assert sample.stdout.read(3) == b"on\n", sample.log()
    return sample
def finish(code, **limits):
    done = run([*python.argv, "-c", code], **options(**limits), timeout_s=60, output_limit_bytes=1000)
    return {"limit": done.limit, "cpu_ns": done.cpu_ns, "peak": done.peak_memory_bytes, "said": done.stdout.decode()}
"""


def judged(code: str) -> dict[str, Any]:
    answer = in_sandbox_as_user(JUDGE + code)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_what_ends_before_the_next_poll_is_counted() -> None:
    """Each of these is over within milliseconds, and says what the kernel charged it."""
    found = judged(
        r"""
alone = '''
import time
while time.process_time() < 0.02: pass
print(time.process_time_ns())
'''
children = '''
import os, resource
for _ in range(5):
    if os.fork() == 0:
        sum(range(300_000)); os._exit(0)
    os.wait()
print(round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime * 1e9))
'''
print(json.dumps({"alone": finish(alone), "children": finish(children)}))
"""
    )
    for name, done in found.items():
        assert done["cpu_ns"] >= int(done["said"]) > 0, name
        assert done["peak"] > 0, name


def test_a_peak_between_two_polls_is_seen_and_cannot_be_forgotten() -> None:
    """The high-water mark is the kernel's. A process that could write to /proc/self/clear_refs would set it back."""
    found = judged(
        r"""
code = '''
import time
held = bytearray(b"x") * (150 << 20); del held
try:
    open("/proc/self/clear_refs", "w").write("5")
except OSError:
    pass
print("on", flush=True)
time.sleep(60)
'''
with start(code) as sample:
    time.sleep(0.2)
    print(json.dumps({"peak": sample.peak_memory_bytes()}))
"""
    )
    assert 150 * MIB < found["peak"] < 300 * MIB


def test_no_process_hides_what_it_uses() -> None:
    """Grandchildren of no one, and children that their parent does not reap, which are in no rusage."""
    found = judged(
        r"""
orphan = '''
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        held = bytearray(b"x") * (%d << 20); time.sleep(60)
    os._exit(0)
os.wait(); print("on", flush=True); time.sleep(60)
'''
unreaped = '''
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(%d):
    if os.fork() == 0:
        while time.process_time() < 0.3: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
'''
out = {}
with start(orphan % 120) as sample:
    deadline = time.monotonic() + 20
    while sample.peak_memory_bytes() < 120 << 20 and time.monotonic() < deadline: time.sleep(0.05)
    out["memory"] = sample.peak_memory_bytes()
out["memory limit"] = finish(orphan % 400, memory_bytes=150 << 20)["limit"]
out["time"] = finish(unreaped % 4)["cpu_ns"]
out["time limit"] = finish(unreaped % 1000, cpu_s=2.0)["limit"]
print(json.dumps(out))
"""
    )
    assert found["memory"] >= 120 * MIB
    assert found["memory limit"] == "memory"
    assert found["time"] > 4 * (300 - 2 * POLL_S * 1000) * 1_000_000
    assert found["time limit"] == "cpu"


class Counted:
    """A program of this machine in a polled group."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.group = PolledGroup(Limits(), 2)
        self.group.add(self.process.pid)
        self.reaper = Reaper(self.process, self.group.reaped)

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def close(self) -> None:
        for stat in reversed(tree(self.process.pid)):
            os.kill(stat.pid, 9)
        self.reaper.wait(10)
        self.group.remove()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def programs() -> Iterator[list[Counted]]:
    started: list[Counted] = []
    yield started
    for program in started:
        program.close()


UNREAPED_THEN_SPINNING = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while time.process_time() < 1.0: pass
    os._exit(0)
try: os.wait()
except ChildProcessError: pass
print("on", flush=True)
if os.fork() == 0:
    while True: pass
time.sleep(60)
"""


def test_time_that_no_one_reaped_hides_none_that_is_used_later(programs: list[Counted]) -> None:
    """A second of CPU time is gone from /proc: what runs afterwards, frozen or not, is not set off against it."""
    programs.append(program := Counted(UNREAPED_THEN_SPINNING))
    assert program.read_line() == "on\n"
    before_ns = program.group.cpu_ns()
    assert before_ns > 800_000_000
    deadline = time.monotonic() + 20  # on a busy machine its turn comes late
    while program.process.poll() is None and time.monotonic() < deadline:
        seen_ns = sum(stat.pid != program.process.pid for stat in tree(program.process.pid))
        if seen_ns and program.group.cpu_ns() - before_ns > 50_000_000:
            break
        time.sleep(0.02)
    used_ns = program.group.cpu_ns() - before_ns
    assert 50_000_000 < used_ns < 900_000_000


REAPED = """
import os, resource
for _ in range(40):
    if os.fork() == 0:
        sum(range(1_000_000)); os._exit(0)
    os.wait()
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(each.ru_utime + each.ru_stime for each in used), flush=True)
os.read(0, 1)
"""


def test_reaped_children_are_counted_once(programs: list[Counted]) -> None:
    """A child that is reaped while it is looked at is missing for a moment, and not lost."""
    programs.append(program := Counted(REAPED))
    said_ns = float(program.read_line()) * 1e9
    assert 0.9 * said_ns < program.group.cpu_ns() < 1.3 * said_ns
    assert program.process.stdin is not None
    program.process.stdin.write(b"x")
    program.process.stdin.flush()
    assert program.reaper.wait(10) == 0
    assert said_ns <= program.group.cpu_ns() < 1.3 * said_ns


def test_memory_of_the_process_that_starts_a_sandbox_is_not_the_sandbox_s(programs: list[Counted]) -> None:
    """Linux counts what a process was before it executed its program into its ru_maxrss: here, a copy of this one."""
    held = bytearray(b"x") * (200 << 20)
    programs.append(small := Counted("print(flush=True); input()"))
    small.read_line()
    assert small.group.peak_memory_bytes() > 0  # a look, before it ends
    assert small.process.stdin is not None
    small.process.stdin.close()
    small.reaper.wait(20)
    assert 0 < small.group.peak_memory_bytes() < 100 * MIB < len(held)


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_a_reaped_process_says_how_it_ended(code: str, expected: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", code])
    usages: list[float] = []
    # Together: Linux divides the exact sum by its ticks, which a short process may have none of in one mode.
    reaper = Reaper(process, lambda usage: usages.append(usage.ru_utime + usage.ru_stime))
    assert reaper.wait(20) == reaper.poll() == process.poll() == expected
    assert len(usages) == 1 and usages[0] > 0


def test_waiting_for_a_process_that_runs_on_ends_in_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        Reaper(process, lambda _: None).wait(0.05)
    process.communicate(b"\n")


def test_every_kind_of_group_has_its_ways_of_counting() -> None:
    kinds = {
        path.stem.replace("_", "-")
        for path in Path(CHECKOUT, "benchmarks/sandbox/accounting").glob("cgroup_v?.py")
    }
    assert set(COUNTED_BY) == {*kinds, PolledGroup.kind}
