"""Tries to reach what one machine has only once: its clock, its kernel's log, huge pages, the handler of crashes."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import struct
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from .attempt import Refused, Targets, attack, call, first_that_works, main

READ_ALL = 3
PR_SCHED_CORE, SCHED_CORE_CREATE = 62, 1
MAP_HUGETLB = 0x40000
HUGE_PAGE = 2 * 1024 * 1024
IPC_PRIVATE, IPC_CREATE = 0, 0o1000 | 0o600
MPOL_BIND, MPOL_MF_MOVE_ALL = 2, 4


@attack
def set_the_clock(targets: Targets) -> str | None:
    """The judge times by the machine's clock."""
    now = struct.pack("qq", int(time.time()), 0)
    return first_that_works(
        {
            "clock_settime": lambda: call(targets, "clock_settime", 0, now),
            "settimeofday": lambda: call(targets, "settimeofday", now, None),
            "adjtimex": lambda: call(targets, "adjtimex", struct.pack("I", 0x4000) + b"\0" * 204),
            "clock_adjtime": lambda: call(targets, "clock_adjtime", 0, b"\0" * 208),
            "rtc": lambda: os.close(os.open("/dev/rtc0", os.O_RDONLY)),
        }
    )


@attack
def kernel_log(targets: Targets) -> str | None:
    buffer = ctypes.create_string_buffer(4096)
    return first_that_works(
        {
            "syslog": lambda: call(targets, "syslog", READ_ALL, buffer, 4096),
            "/proc/kmsg": lambda: _open_log("/proc/kmsg"),
            "/dev/kmsg": lambda: _open_log("/dev/kmsg"),
        }
    )


def _open_log(path: str) -> None:
    """It may be covered by the empty device."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if os.fstat(fd).st_rdev == Path(os.devnull).stat().st_rdev:
            raise Refused(errno.ENODATA, "covered")
    finally:
        os.close(fd)


@attack
def writable_kernel_files(targets: Targets) -> str | None:
    """Every file below /proc/sys, /sys and the like that takes a value: it is given the one it has."""
    found = []
    for top in ("/proc/sys", "/sys", "/proc/irq", "/proc/fs", "/proc/acpi", "/proc/bus"):
        for folder, _, names in os.walk(top):
            for name in names:
                path = f"{folder}/{name}"
                with suppress(OSError):
                    with Path(path).open("r+b", buffering=0) as file:  # opening some is free, writing is not
                        os.pwrite(file.fileno(), file.read(4096), 0)
                    found.append(path)
    return ", ".join(found[:10]) or None


@attack
def crash_handler(targets: Targets) -> str | None:
    """A crash is handed to a program of the host's, as root, or leaves a file. Tried with every limit we may set."""
    for limit in (None, 0, 1 << 20, resource.RLIM_INFINITY):
        child = os.fork()
        if child == 0:
            with suppress(OSError, ValueError):
                if limit is not None:
                    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
            os.chdir("/work")
            os.abort()
        _, status = os.waitpid(child, 0)
        if os.WCOREDUMP(status):
            return f"a core was dumped with the limit {limit}"
    return None


@attack
def huge_pages(targets: Targets) -> str | None:
    """Their pool belongs to the machine and is in no memory limit."""
    page = call(targets, "mmap", 0, HUGE_PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB, -1, 0)
    return f"mapped at {page:#x}"


@attack
def locked_memory(targets: Targets) -> str | None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    call(targets, "mlock", ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE))
    return "locked a page"


@attack
def core_scheduling(targets: Targets) -> str | None:
    """A core-scheduling cookie keeps every other task off the core's second thread."""
    call(targets, "prctl", PR_SCHED_CORE, SCHED_CORE_CREATE, 0, 0, 0)
    return "a cookie was made"


@attack
def memory_placement(targets: Targets) -> str | None:
    """Moves pages between nodes: ours, and those of the victim."""
    nodes = struct.pack("Q", 1)
    return first_that_works(
        {
            "set_mempolicy": lambda: call(targets, "set_mempolicy", MPOL_BIND, nodes, 64),
            "migrate_pages": lambda: call(targets, "migrate_pages", targets["victim_pid"], 64, nodes, nodes),
            "move_pages": lambda: call(
                targets, "move_pages", targets["victim_pid"], 0, None, None, None, MPOL_MF_MOVE_ALL
            ),
        }
    )


@attack
def message_queues(targets: Targets) -> str | None:
    """Kernel memory that outlives processes: POSIX queues, System V queues and semaphores."""
    attributes = struct.pack("8q", 0, 10, 8192, 0, 0, 0, 0, 0)
    return first_that_works(
        {
            "mq_open": lambda: call(targets, "mq_open", b"gainshare", 0o102, 0o600, attributes),
            "msgget": lambda: call(targets, "msgget", IPC_PRIVATE, IPC_CREATE),
            "semget": lambda: call(targets, "semget", IPC_PRIVATE, 1, IPC_CREATE),
        }
    )


@attack
def performance_counters(targets: Targets) -> str | None:
    """Counters of this process, of the core and of the machine: they tell what a neighbour does."""
    software = struct.pack("IIQ", 1, 128, 0) + b"\0" * 112
    events = {"own": (0, -1), "core": (-1, 0)}
    return first_that_works(
        {
            name: partial(call, targets, "perf_event_open", software, pid, cpu, -1, 0)
            for name, (pid, cpu) in events.items()
        }
    )


@attack
def segment_descriptors(targets: Targets) -> str | None:
    """modify_ldt: a corner of x86 that nothing here needs and that kernels had holes in."""
    if targets["syscalls"]["modify_ldt"] is None:
        raise Refused(errno.ENOSYS, "this machine has no such call")
    call(targets, "modify_ldt", 0, ctypes.create_string_buffer(64), 64)
    return "read our own table"


@attack
def sleep_states(targets: Targets) -> str | None:
    """Files by which a machine is put to sleep or its frequency changed."""
    files = [
        "/sys/power/state",
        "/sys/devices/system/cpu/cpu1/online",
        "/sys/devices/system/cpu/cpufreq/boost",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq",
        "/dev/cpu_dma_latency",
        "/dev/watchdog",
    ]

    def attempt(path: str) -> None:
        with Path(path).open("wb"):
            pass

    return first_that_works({path: partial(attempt, path) for path in files})


if __name__ == "__main__":
    main()
