"""Bombs against the limits of a sandbox, judged from outside: counted, measured, and gone afterwards."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from benchmarks.sandbox.accounting.groups import CHARGED_WITHIN_S
from benchmarks.sandbox.accounting.processes import read_stat
from benchmarks.sandbox.levels import MIB, Limits, SandboxLevel
from benchmarks.sandbox.once import Completed, run
from benchmarks.sandbox.runtime import python_runtime
from benchmarks.sandbox.sample import Sample
from benchmarks.sandbox.selftest.results import Attack
from benchmarks.sandbox.selftest.targets import PROBE_TARGET, Stage
from benchmarks.sandbox.starting import spawn

PIDS = 32
MEMORY_MIB = 192
SCRATCH_MIB = 16
LOG_BYTES = 64 * 1024
OUTPUT_BYTES = MIB
TIMEOUT_S = 10.0
FROZEN_FOR_S = 0.2
FROZEN_TOLERANCE_NS = 1_000_000
#: Bubblewrap's monitor and init are counted with the sample's own.
OWN_PIDS = 2

LIMITS = Limits(
    memory_bytes=MEMORY_MIB * MIB,
    pids=PIDS,
    scratch_bytes=SCRATCH_MIB * MIB,
    log_bytes=LOG_BYTES,
    wall_s=TIMEOUT_S,
)


def attack_limits(level: SandboxLevel, stage: Stage) -> list[Attack]:
    """All bombs, one after the other, each in a separate sandbox."""
    tests: list[Callable[[SandboxLevel, Stage], Attack]] = [
        *(_forks, _threads, _memory, _memory_in_parts, _scratch, _output, _log, _hang, _frozen)
    ]
    return [test(level, stage) for test in tests]


def _argv(bomb: str, limit: int) -> list[str]:
    return [*python_runtime().argv, "-m", "attacks.resources", bomb, str(limit)]


def _run(level: SandboxLevel, stage: Stage, bomb: str, limit: int, timeout_s: float = TIMEOUT_S) -> Completed:
    python = python_runtime(path=[PROBE_TARGET])
    return run(
        _argv(bomb, limit),
        level=level,
        mounts=[*python.mounts, stage.mount],
        limits=LIMITS,
        env=python.env,
        slot=0,
        timeout_s=timeout_s,
        output_limit_bytes=OUTPUT_BYTES,
    )


def _spawn(level: SandboxLevel, stage: Stage, bomb: str, limit: int) -> Sample:
    python = python_runtime(path=[PROBE_TARGET])
    return spawn(
        _argv(bomb, limit),
        level=level,
        mounts=[*python.mounts, stage.mount],
        limits=LIMITS,
        env=python.env,
        slot=0,
    )


def _number(text: bytes) -> float:
    """Number that a bomb reported; 0 where it ended before."""
    return float(text or 0)


def _forks(level: SandboxLevel, stage: Stage) -> Attack:
    with _spawn(level, stage, "fork_bomb", PIDS) as sample:
        sample.stdout.read(1)  # it writes a number once it cannot continue, or ends
        pids = sample.pids()
        sample.kill()
        left = [pid for pid in pids if (stat := read_stat(pid)) is not None and stat.is_alive]
    contained = len(pids) <= PIDS + OWN_PIDS and not left
    return Attack(
        "resources.fork_bomb", contained, f"{len(pids)} processes at most, {len(left)} left after the kill"
    )


def _threads(level: SandboxLevel, stage: Stage) -> Attack:
    made = _number(_run(level, stage, "thread_bomb", PIDS).stdout)
    return Attack("resources.thread_bomb", made <= PIDS, f"{made:.0f} threads of {4 * PIDS} tried")


def _memory(level: SandboxLevel, stage: Stage) -> Attack:
    completed = _run(level, stage, "memory_bomb", MEMORY_MIB)
    return _memory_verdict("memory_bomb", completed)


def _memory_in_parts(level: SandboxLevel, stage: Stage) -> Attack:
    completed = _run(level, stage, "memory_bomb_in_parts", MEMORY_MIB)
    return _memory_verdict("memory_bomb_in_parts", completed)


def _memory_verdict(name: str, completed: Completed) -> Attack:
    peak = completed.peak_memory_bytes / MIB
    contained = completed.limit == "memory" and peak < 2 * MEMORY_MIB
    return Attack(
        f"resources.{name}", contained, f"peak {peak:.0f} MiB of {MEMORY_MIB}, limit hit: {completed.limit}"
    )


def _scratch(level: SandboxLevel, stage: Stage) -> Attack:
    completed = _run(level, stage, "scratch_bomb", SCRATCH_MIB)
    written = _number(completed.stdout)
    contained = 0 < written <= 3.05 * SCRATCH_MIB  # three folders; a few pages of rounding
    return Attack(
        "resources.scratch_bomb", contained, f"{written:.0f} MiB fit into three folders of {SCRATCH_MIB}"
    )


def _output(level: SandboxLevel, stage: Stage) -> Attack:
    completed = _run(level, stage, "output_flood", 0)
    contained = completed.limit == "output" and len(completed.stdout) == OUTPUT_BYTES
    return Attack("resources.output_flood", contained, f"cut after {len(completed.stdout)} bytes")


def _log(level: SandboxLevel, stage: Stage) -> Attack:
    completed = _run(level, stage, "log_flood", 1)
    kept = len(completed.stderr_tail.encode())
    contained = completed.stdout.strip() == b"closed" and kept < 2 * LOG_BYTES
    return Attack("resources.log_flood", contained, f"{kept} bytes of log kept, the rest refused")


def _hang(level: SandboxLevel, stage: Stage) -> Attack:
    """It closes stdout, so its end must be found by the clock."""
    completed = _run(level, stage, "hang", 0, timeout_s=0.5)
    return Attack("resources.hang", completed.timed_out, f"ended by the clock: {completed.timed_out}")


def _frozen(level: SandboxLevel, stage: Stage) -> Attack:
    with _spawn(level, stage, "busy", 0) as sample:
        sample.stdout.read(1)
        with suppress(subprocess.TimeoutExpired):
            sample.wait(0.1)
        sample.freeze()
        time.sleep(CHARGED_WITHIN_S)
        before = sample.cpu_ns()
        time.sleep(FROZEN_FOR_S)
        used = sample.cpu_ns() - before
        sample.thaw()
        time.sleep(FROZEN_FOR_S)
        thawed = sample.cpu_ns() - before - used
    return Attack(
        "resources.work_while_frozen",
        used < FROZEN_TOLERANCE_NS < thawed,
        f"{used} ns used frozen, {thawed} ns thawed",
    )
