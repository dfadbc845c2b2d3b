"""Tries to see, stop, trace, slow down or move processes outside."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from .attempt import Targets, attack, call, first_that_works, main

PTRACE_ATTACH = 16
PTRACE_TRACEME = 0
PRIO_PROCESS, PRIO_USER = 0, 2
RLIMIT_NOFILE = 7
TRACED = 9


@attack
def see_host_processes(targets: Targets) -> str | None:
    """The victim by its number or its name, or many more processes than a sandbox has."""
    token = targets["victim_token"].encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token in path.read_bytes():
                return str(path)
        except OSError:
            continue
    return "by its number" if Path("/proc", str(targets["victim_pid"])).exists() else None


@attack
def trace_host_process(targets: Targets) -> str | None:
    call(targets, "ptrace", PTRACE_ATTACH, targets["victim_pid"], 0, 0)
    return "attached"


@attack
def trace_anything(targets: Targets) -> str | None:
    """Even tracing among our own would open the filter to tricks."""
    child = os.fork()
    if child == 0:
        with suppress(OSError):
            call(targets, "ptrace", PTRACE_TRACEME, 0, 0, 0)
            os._exit(TRACED)
        os._exit(0)
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "allowed"
    return "allowed" if os.WEXITSTATUS(status) == TRACED else None


@attack
def memory_of_host_process(targets: Targets) -> str | None:
    """Through /proc/<pid>/mem and process_vm_readv."""
    pid = targets["victim_pid"]
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("QQ", ctypes.addressof(buffer), 8)
    return first_that_works(
        {
            "mem": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
            "process_vm_readv": lambda: call(
                targets, "process_vm_readv", os.getpid(), vector, 1, vector, 1, 0
            ),
        }
    )


@attack
def borrow_descriptor(targets: Targets) -> str | None:
    """pidfd_getfd copies an open descriptor out of another process."""
    pidfd = call(targets, "pidfd_open", os.getpid(), 0)
    return f"descriptor {call(targets, 'pidfd_getfd', pidfd, 0, 0)}"


@attack
def priority_of_others(targets: Targets) -> str | None:
    """Lowers the priority of the victim, and of everything that runs under our uid."""
    return first_that_works(
        {
            "process": lambda: call(targets, "setpriority", PRIO_PROCESS, targets["victim_pid"], 5),
            "user": lambda: call(targets, "setpriority", PRIO_USER, 0, 5),
            "input/output": lambda: call(targets, "ioprio_set", 1, targets["victim_pid"], (2 << 13) | 7),
        }
    )


@attack
def leave_own_cores(targets: Targets) -> str | None:
    """Runs on the judge's core: by affinity of ours or of the victim."""
    mask = ctypes.create_string_buffer(b"\xff" * 8, 8)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except OSError:
        moved = False
    else:
        moved = os.sched_getaffinity(0) != before
    if moved:
        return f"from {sorted(before)} to {sorted(os.sched_getaffinity(0))}"
    call(targets, "sched_setaffinity", targets["victim_pid"], 8, mask)
    return "moved the victim"


@attack
def real_time_scheduling(targets: Targets) -> str | None:
    """A policy that would starve or skew the processes that share the core."""
    batch = 3
    call(targets, "sched_setscheduler", 0, batch, struct.pack("i", 0))
    return "changed our scheduling policy"


@attack
def limits_of_others(targets: Targets) -> str | None:
    old = ctypes.create_string_buffer(16)
    call(targets, "prlimit64", targets["victim_pid"], RLIMIT_NOFILE, None, old)
    return "read a limit of the victim"


@attack
def belong_to_the_outside(targets: Targets) -> str | None:
    """A process group or session that reaches out would let one signal to it reach the judge. Theirs show as 0."""
    found = {"group": os.getpgid(0), "session": os.getsid(0)}
    return ", ".join(name for name, number in found.items() if number == 0) or None


@attack
def parent_processes(targets: Targets) -> str | None:
    """Attacks the parent processes: their memory, their root, their descriptors, their settings."""
    attempts: dict[str, Callable[[], object]] = {}
    for pid in {1, os.getppid()} - {os.getpid(), 0}:
        attempts |= {
            f"memory of {pid}": partial(_open, f"/proc/{pid}/mem", os.O_RDWR),
            f"root of {pid}": partial(os.listdir, f"/proc/{pid}/root/"),
            f"environment of {pid}": partial(_open, f"/proc/{pid}/environ", os.O_RDONLY),
            f"namespace of {pid}": partial(_open, f"/proc/{pid}/ns/mnt", os.O_RDONLY),
            f"clear_refs of {pid}": partial(_open, f"/proc/{pid}/clear_refs", os.O_WRONLY),
            f"descriptor of {pid}": partial(_open, f"/proc/{pid}/fd/2", os.O_WRONLY),
        }
    return first_that_works(attempts)


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


@attack
def settings_of_host_process(targets: Targets) -> str | None:
    """Makes the victim the first that is killed when memory runs out, or slows its timers."""
    folder = f"/proc/{targets['victim_pid']}"
    names = ("oom_score_adj", "timerslack_ns", "autogroup", "comm", "coredump_filter")
    return first_that_works({name: partial(_open, f"{folder}/{name}", os.O_WRONLY) for name in names})


@attack
def signal_host_process(targets: Targets) -> str | None:
    """Last, as it ends the victim where it works."""
    os.kill(targets["victim_pid"], signal.SIGKILL)
    return "the signal was delivered"


if __name__ == "__main__":
    main()
