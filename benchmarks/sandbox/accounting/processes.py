"""Reads and signals trees of processes through /proc, for machines where no cgroup does it."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
NS_PER_TICK = 1_000_000_000 // TICKS_PER_SECOND
DEAD = ("Z", "X")
STOPPED = ("T", "t", *DEAD)
ASLEEP = ("S", *DEAD)
WAITING = "D"  # in the kernel, and not to be interrupted
MEMORY_FIELDS = ("RssAnon", "RssShmem", "VmSwap", "RssFile", "VmHWM")


@dataclass(frozen=True)
class ProcessStat:
    """The fields of /proc/<pid>/stat (proc(5)) that are used here.

    `state` is that of the first thread only. `reaped_ns` is CPU time of reaped children, `start_ticks` the start in clock
    ticks since boot.
    """

    pid: int
    state: str
    parent: int
    reaped_ns: int
    threads: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """A zombie is dead, unless only its first thread has ended: the others run on."""
        return self.state not in DEAD or self.threads > 1


def read_stat(pid: int) -> ProcessStat | None:
    """None when the process is gone."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may contain anything
    reaped_ns = (int(fields[13]) + int(fields[14])) * NS_PER_TICK
    return ProcessStat(pid, fields[0], int(fields[1]), reaped_ns, int(fields[17]), int(fields[19]))


def start_ticks(pid: int) -> int | None:
    """Start time of a process, in clock ticks since boot; None when it is gone. Tells a reused number apart."""
    stat = read_stat(pid)
    return None if stat is None else stat.start_ticks


def is_running(pid: int, ticks: int) -> bool:
    """True if the process that started at `ticks` still runs. A zombie does not."""
    stat = read_stat(pid)
    return stat is not None and stat.start_ticks == ticks and stat.is_alive


def is_stopped(pid: int) -> bool:
    """True if none of its threads can run. A signal reaches them one after the other, so the first one's state is not enough.

    A thread that waits in the kernel cannot take its SIGSTOP yet, as the parent of a vfork(2) whose child is stopped. It
    counts as stopped where the signal waits for it, or has stopped another thread of its process: it runs none of its
    program before it takes it.
    """
    states = list(_thread_states(pid))
    if all(state in STOPPED for state in states):
        return True
    if not all(state in (*STOPPED, WAITING) for state in states):
        return False
    return any(state in ("T", "t") for state in states) or _waits_to_stop(pid)


def _waits_to_stop(pid: int) -> bool:
    """True if SIGSTOP is pending for the whole process."""
    pending = _status(Path("/proc", str(pid)), ("ShdPnd",)).get("ShdPnd", "0")
    return bool(int(pending, 16) >> (signal.SIGSTOP - 1) & 1)


def is_asleep(pid: int) -> bool:
    """True if none of its threads wants a processor or a disk: a thread that waits for a busy processor is not asleep."""
    return all(state in ASLEEP for state in _thread_states(pid))


def _thread_states(pid: int) -> Iterator[str]:
    for folder in thread_folders(pid):
        with suppress(OSError):  # a thread that has just ended
            yield (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]


def thread_folders(pid: int) -> Iterator[Path]:
    """/proc's folders of a process's threads; none when it is gone."""
    with suppress(OSError):
        yield from Path("/proc", str(pid), "task").iterdir()


def tree(root: int) -> list[ProcessStat]:
    """`root` and all its descendants, parents first. Orphans inside a PID namespace belong to its init, so stay in."""
    children: dict[int, list[ProcessStat]] = defaultdict(list)
    top: ProcessStat | None = None
    with os.scandir("/proc") as entries:
        names = [entry.name for entry in entries if entry.name.isdigit()]
    for name in names:
        stat = read_stat(int(name))
        if stat is None:
            continue
        children[stat.parent].append(stat)
        if stat.pid == root:
            top = stat
    if top is None:
        return []
    found = [top]
    for stat in found:  # grows while it is walked
        found.extend(children[stat.pid])
    return found


def cpu_clock_ns(pid: int) -> int:
    """CPU time of all threads of a process, dead ones too, by its clock (clock_getcpuclockid(3)). 0 when it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class ProcessMemory:
    """One process's /proc/<pid>/status (proc(5)), in bytes.

    `own` is anonymous and shared memory, swapped or not; `files` are pages of files, which are shared with the host;
    `high_water` is the most of all of it that was ever resident, since the process's program was executed.
    """

    own: int = 0
    files: int = 0
    high_water: int = 0


def read_memory(pid: int) -> ProcessMemory:
    """Memory that a process has mapped; all zero when it is gone.

    A thread that has ended shows none, so where the first one has, another is asked.
    """
    folders = (Path("/proc", str(pid)), *thread_folders(pid))
    return next((read for folder in folders if (read := _read_status(folder)).own), ProcessMemory())


def memory_bytes(pid: int) -> int:
    """Anonymous and shared memory that a process has mapped."""
    return read_memory(pid).own


def _read_status(folder: Path) -> ProcessMemory:
    sizes = {name: 1024 * int(value.split()[0]) for name, value in _status(folder, MEMORY_FIELDS).items()}
    own = sum(sizes.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))
    return ProcessMemory(own, sizes.get("RssFile", 0), sizes.get("VmHWM", 0))


def _status(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Fields of a process's or thread's status; empty when it is gone.

    The kernel escapes newlines in the process's name, which the process chooses, and nothing else. So lines end at
    newlines only, and not at what `str.splitlines` or universal newlines take for an end.
    """
    try:
        lines = (folder / "status").read_bytes().split(b"\n")
    except OSError:
        return {}
    fields = dict(line.decode(errors="replace").split(":\t", 1) for line in lines if b":\t" in line)
    return {name: fields[name] for name in names if name in fields}


def thread_count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - a path object per poll is waste
    except OSError:
        return 0
