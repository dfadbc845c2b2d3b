"""Attacks a sandbox of this machine for real and says what held.

`attacks/` are the programs; what they cannot judge from inside (did the victim survive, how many processes were
there) is checked from outside, here. A worker refuses jobs while any attack is not contained.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.sandbox.levels import MIB, Limits, SandboxLevel
from benchmarks.sandbox.once import run
from benchmarks.sandbox.runtime import python_runtime
from benchmarks.sandbox.selftest import bombs, leftovers, neighbours
from benchmarks.sandbox.selftest.results import Attack
from benchmarks.sandbox.selftest.targets import PROBE_TARGET, Stage, set_stage

FAMILIES = ("environment", "network", "filesystem", "shared_files", "machine", "privileges", "processes")
FAMILY_TIMEOUT_S = 20.0
OUTPUT_LIMIT_BYTES = MIB


def self_test(level: SandboxLevel) -> list[Attack]:
    """Tries every attack at `level`; about ten seconds.

    Raises:
        SandboxUnavailable, SandboxError: no sandbox of that level can be started here.
    """
    if level is SandboxLevel.NONE:
        return [Attack("any", False, "level `none` confines nothing, so nothing was tried")]
    attacks: list[Attack] = []
    with set_stage() as stage:
        for family in FAMILIES:
            attacks += attack_family(level, family, stage)
        attacks += [host_unharmed(stage), page_cache(stage)]
        attacks += neighbours.attack_neighbour(level, stage)
        attacks += leftovers.attack_results(level, stage)
        attacks += bombs.attack_limits(level, stage)
    return attacks


def attack_family(level: SandboxLevel, family: str, stage: Stage) -> list[Attack]:
    """Runs one program of `attacks/`. What it announced but did not report is not contained."""
    python = python_runtime(path=[PROBE_TARGET])
    core = min(os.sched_getaffinity(0))
    completed = run(
        [*python.argv, "-m", f"attacks.{family}"],
        level=level,
        mounts=[*python.mounts, stage.mount],
        limits=Limits(cores=(core,), wall_s=FAMILY_TIMEOUT_S),
        env=python.env,
        slot=0,
        input=json.dumps(stage.facts).encode(),
        timeout_s=FAMILY_TIMEOUT_S,
        output_limit_bytes=OUTPUT_LIMIT_BYTES,
    )
    return list(read_report(family, completed.stdout, completed.stderr_tail))


def read_report(family: str, stdout: bytes, stderr: str) -> Iterator[Attack]:
    """One `Attack` per announced name. Fails closed: no plan, no result or a garbled line are not containment."""
    plan: list[str] = []
    results: dict[str, Attack] = {}
    for line in stdout.decode(errors="replace").splitlines():
        try:
            report = json.loads(line)
            if "plan" in report:
                plan = report["plan"]
            else:
                results[report["attack"]] = Attack(
                    f"{family}.{report['attack']}", report["escaped"] is False, report["detail"]
                )
        except (ValueError, KeyError, TypeError):
            yield Attack(f"{family}.report", False, f"unreadable: {line[:200]}")
    if not plan:
        yield Attack(family, False, f"the attacks did not start: {stderr[-500:].strip()}")
    for name in plan:
        yield results.get(name, Attack(f"{family}.{name}", False, f"no result: {stderr[-200:].strip()}"))


def host_unharmed(stage: Stage) -> Attack:
    """The victim lives, untouched, and no file of the attackers' name is on the host."""
    harm: list[str] = []
    victim = stage.victim.pid
    if stage.victim.poll() is not None:
        harm.append(f"the victim was ended by {signal.Signals(-stage.victim.returncode).name}")
    else:
        if os.getpriority(os.PRIO_PROCESS, victim) != os.getpriority(os.PRIO_PROCESS, 0):
            harm.append("its priority was changed")
        if os.sched_getaffinity(victim) != os.sched_getaffinity(0):
            harm.append("its cores were changed")
    harm += [str(path) for path in _traces(stage.token, ("/", "/etc", "/usr", "/tmp", "/dev/shm"))]  # noqa: S108
    return Attack("host.unharmed", not harm, "; ".join(harm) or "victim and file system are as before")


def _traces(token: str, folders: Sequence[str]) -> Iterator[Path]:
    for folder in folders:
        path = Path(folder, token)
        if path.exists() and folder != "/dev/shm":  # noqa: S108 - our own plant has that name there
            yield path


def page_cache(stage: Stage) -> Attack:
    """Check that the planted pages are still in memory, whatever the attackers did."""
    share = resident_share(stage.ballast)
    return Attack("host.page_cache", share == 1.0, f"{share:.0%} of a shared file is still in the page cache")


def resident_share(path: Path) -> float:
    """The part of a file's pages that is in memory (mincore(2)). The file must be ours, else the kernel says all."""
    pages = -(-path.stat().st_size // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as view:
        start = ctypes.c_char.from_buffer(view)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.byref(start), ctypes.c_size_t(len(view)), states
        )
        del start
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(state & 1 for state in states) / pages
