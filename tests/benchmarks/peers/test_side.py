"""A side of a comparison: asked, stopped, failing, ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.pairs.cores import choose_cores
from benchmarks.peers.side import Side, SideFailed
from benchmarks.sandbox.accounting.processes import cpu_clock_ns, is_running, read_stat, start_ticks

DRIVER = """
import os, sys, time
from benchmarks.peers.drivers.channel import resident_bytes, serve

def add(a, b):
    print("chatter of an engine")
    return {"sum": a + b, "cores": sorted(os.sched_getaffinity(0)), "threads": os.environ["OMP_NUM_THREADS"]}

def fail():
    raise ValueError("no such weights")

def leave():
    sys.stderr.write("out of memory, says the engine\\n")
    sys.stderr.flush()
    os._exit(3)

def wait(seconds):
    time.sleep(seconds)
    return {}

def me():
    return {"pid": os.getpid(), "bytes": resident_bytes()}

serve({"add": add, "fail": fail, "leave": leave, "wait": wait, "me": me})
"""


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    (tmp_path / "driver.py").write_text(DRIVER)
    argv = [sys.executable, str(tmp_path / "driver.py")]
    with Side(
        "engine", argv=argv, core=choose_cores().measuring, log=tmp_path / "logs" / "engine.log"
    ) as started:
        yield started


def test_answers_come_from_one_core_and_one_thread_and_chatter_goes_to_the_log(side: Side) -> None:
    answer = side.ask("add", timeout_s=30, a=2, b=3)
    assert answer == {"sum": 5, "cores": [choose_cores().measuring], "threads": "1"}
    assert side.ask("add", timeout_s=30, a=1, b=1)["sum"] == 2
    assert "chatter of an engine" in side.log.read_text()


def test_a_command_that_fails_says_why_and_the_next_one_is_answered(side: Side) -> None:
    with pytest.raises(SideFailed, match="no such weights"):
        side.ask("fail", timeout_s=30)
    assert side.ask("add", timeout_s=30, a=1, b=2)["sum"] == 3


def test_an_engine_that_dies_is_named_with_the_end_of_its_log(side: Side) -> None:
    with pytest.raises(SideFailed, match=r"engine has ended .*out of memory, says the engine"):
        side.ask("leave", timeout_s=30)
    with pytest.raises(SideFailed):
        side.ask("add", timeout_s=30, a=1, b=2)


def test_an_engine_that_takes_too_long_is_ended(side: Side) -> None:
    pid = side.ask("me", timeout_s=30)["pid"]
    ticks = start_ticks(pid)
    assert ticks is not None
    with pytest.raises(SideFailed, match="took longer than 0 s"):
        side.ask("wait", timeout_s=0.2, seconds=60)
    assert not is_running(pid, ticks)


def test_a_frozen_side_takes_no_time_and_a_thawed_one_continues(side: Side) -> None:
    pid = side.ask("me", timeout_s=30)["pid"]
    side.freeze()
    deadline = time.monotonic() + 10
    while (stat := read_stat(pid)) is not None and stat.state != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = cpu_clock_ns(pid)
    time.sleep(0.05)
    assert cpu_clock_ns(pid) == before
    side.thaw()
    assert side.ask("add", timeout_s=30, a=4, b=4)["sum"] == 8


def test_leaving_ends_the_process_even_while_it_is_frozen(side: Side) -> None:
    answer = side.ask("me", timeout_s=30)
    ticks = start_ticks(answer["pid"])
    assert ticks is not None
    assert 1 << 20 < answer["bytes"] < 1 << 32
    side.freeze()
    side.close()
    assert not is_running(answer["pid"], ticks)
    side.close()  # may be called again
