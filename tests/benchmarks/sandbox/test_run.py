"""`run`: one command to its end, with what it may use up, and every way to end."""

import os
from typing import Any

import pytest

from benchmarks.sandbox import (
    Completed,
    Limits,
    SandboxLevel,
    python_runtime,
    run,
    starting,
)
from benchmarks.sandbox.accounting.polled import PolledGroup
from benchmarks.sandbox.levels import MIB
from tests.benchmarks.pairs.busy_core import busy
from tests.benchmarks.sandbox.sandbox_levels import LEVELS, level_or_skip

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> SandboxLevel:
    return level_or_skip(request.param)


def run_python(level: SandboxLevel, code: str, **options: Any) -> Completed:
    python = python_runtime()
    options = {"limits": Limits(), "timeout_s": 20.0, "output_limit_bytes": MIB, "slot": 0} | options
    return run([*python.argv, "-c", code], level=level, mounts=python.mounts, env=python.env, **options)


def test_input_goes_in_output_and_errors_come_out(level: SandboxLevel) -> None:
    data = b"0123456789" * 50_000
    code = "import sys; text = sys.stdin.buffer.read(); sys.stdout.buffer.write(text); sys.exit('said why')"
    done = run_python(level, code, input=data)
    assert done.stdout == data
    assert done.stderr_tail == "said why\n"
    assert done.returncode == 1
    assert not done.timed_out
    assert not done.resource_limited
    assert done.limit is None
    assert done.cpu_ns > 0
    assert done.peak_memory_bytes > 0


def test_input_that_no_one_reads_is_no_error(level: SandboxLevel) -> None:
    done = run_python(level, "print('done')", input=b"x" * MIB)
    assert done.stdout == b"done\n"
    assert done.returncode == 0


def test_a_time_out_is_told_apart_from_a_resource_limit(level: SandboxLevel) -> None:
    done = run_python(level, "import time; print('on', flush=True); time.sleep(60)", timeout_s=1.0)
    assert done.timed_out
    assert not done.resource_limited
    assert done.stdout == b"on\n"


def test_a_command_that_closes_its_output_is_still_timed(level: SandboxLevel) -> None:
    done = run_python(level, "import os, time; os.close(1); time.sleep(60)", timeout_s=1.0)
    assert done.timed_out


# Four processes at once, and many after each other, none of which uses much alone.
AT_ONCE = """
import os, time
os.fork(), os.fork()
while time.process_time() < 0.6: pass
time.sleep(60)
"""
IN_A_ROW = """
import os, time
while True:
    if os.fork() == 0:
        while time.process_time() < 0.1: pass
        os._exit(0)
    os.wait()
"""
SLEEP = "import time; time.sleep(60)"
SPIN = "while True: pass"


@pytest.fixture(params=["as here", "polled"])
def counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the means of this machine, and as where no cgroup may be made."""
    if request.param == "polled":
        monkeypatch.setattr(starting, "make_group", PolledGroup)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("code", [AT_ONCE, IN_A_ROW], ids=["at once", "in a row"])
def test_processor_time_is_that_of_all_processes_together(level: SandboxLevel, code: str) -> None:
    done = run_python(level, code, limits=Limits(cpu_s=1.5), timeout_s=60.0)
    assert done.limit == "cpu"
    assert not done.timed_out and not done.resource_limited
    assert done.cpu_ns / 1e9 >= 1.5


@pytest.mark.usefixtures("counting")
def test_what_sleeps_is_idle(level: SandboxLevel) -> None:
    done = run_python(level, SLEEP, limits=Limits(idle_s=1.0), timeout_s=60.0)
    assert done.limit == "idle"
    assert not done.timed_out and not done.resource_limited


@pytest.mark.usefixtures("counting")
def test_what_waits_for_a_processor_is_not_idle(level: SandboxLevel) -> None:
    core = max(os.sched_getaffinity(0))
    with busy(core, 8):
        done = run_python(level, SPIN, limits=Limits(idle_s=1.0, cores=(core,)), timeout_s=6.0)
    assert done.limit == "wall"
    assert done.cpu_ns / 1e9 < 3.0  # so it did wait, most of the time


def test_too_much_output_is_a_resource_limit(level: SandboxLevel) -> None:
    done = run_python(level, "while True: print('x' * 1000)", output_limit_bytes=5000)
    assert done.resource_limited
    assert done.limit == "output"
    assert len(done.stdout) == 5000


def test_too_much_memory_is_a_resource_limit(level: SandboxLevel) -> None:
    limits = Limits(memory_bytes=100 * MIB)
    done = run_python(level, "held = bytearray(b'x') * (1 << 30); print('got it')", limits=limits)
    assert done.resource_limited
    assert done.limit == "memory"
    assert done.stdout == b""


def test_a_child_that_stays_behind_does_not_outlive_the_run(level: SandboxLevel) -> None:
    code = "import os, time\nif os.fork() == 0:\n    os.setsid(); os.close(1); os.close(2); time.sleep(60)\nprint('left')"
    done = run_python(level, code, timeout_s=10.0)
    assert done.returncode == 0
    assert done.stdout == b"left\n"


def test_a_compiler_works_inside(level: SandboxLevel) -> None:
    """C++ extensions are built here: the compiler's links lead through /etc/alternatives."""
    code = (
        "import pathlib, shutil, subprocess\n"
        "if shutil.which('c++') is None: print('none'); raise SystemExit\n"
        "pathlib.Path('a.cpp').write_text('extern \"C\" int answer() { return 42; }')\n"
        "subprocess.run(['c++', '-shared', '-fPIC', '-o', 'a.so', 'a.cpp'], check=True)\n"
        "import ctypes; print(ctypes.CDLL('./a.so').answer())\n"
    )
    done = run_python(level, code)
    if done.stdout == b"none\n":
        pytest.skip("no C++ compiler")
    assert done.stdout == b"42\n", done.stderr_tail


def test_nothing_of_ours_is_in_the_environment(level: SandboxLevel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINSHARE_SECRET_KEY", "do-not-tell")
    done = run_python(level, "import os; print(dict(os.environ)); print(open('/proc/self/environ').read())")
    assert b"do-not-tell" not in done.stdout
    assert b"'PATH': '/usr/bin:/bin'" in done.stdout
