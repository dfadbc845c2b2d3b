"""Looks for the host's secrets in environments, command lines, descriptors and shared memory."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from .attempt import Targets, attack, call, main

TIOCSTI = 0x5412


def _find_canary(targets: Targets, name: str) -> str | None:
    canary = targets["canary"].encode()
    for path in Path("/proc").glob(f"[0-9]*/{name}"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if canary in content:
            return f"found in {path}"
    return None


@attack
def environment_of_processes(targets: Targets) -> str | None:
    """The judge's environment, through bubblewrap's init or any process seen."""
    if targets["canary"] in os.environ.values():
        return "found in our own environment"
    return _find_canary(targets, "environ")


@attack
def command_lines_of_processes(targets: Targets) -> str | None:
    return _find_canary(targets, "cmdline")


@attack
def inherited_descriptors(targets: Targets) -> str | None:
    """Anything open beyond stdin, stdout and stderr."""
    found = []
    for fd in range(3, 1024):
        try:
            found.append(f"{fd} -> {Path(f'/proc/self/fd/{fd}').readlink()}")
        except OSError:
            continue
    return "; ".join(found) or None


@attack
def host_shared_memory(targets: Targets) -> str | None:
    """A file in the host's /dev/shm."""
    return Path(targets["shm_file"]).read_text()


@attack
def system_v_memory(targets: Targets) -> str | None:
    """System V memory outlives processes and is not seen by per-process accounting."""
    key_private, create = 0, 0o1000 | 0o600
    identifier = call(targets, "shmget", key_private, 4096, create)
    call(targets, "shmctl", identifier, 0, None)
    return f"segment {identifier}"


@attack
def terminal_injection(targets: Targets) -> str | None:
    """Types into the terminal the judge was started from."""
    for fd in (0, 1, 2):
        try:
            fcntl.ioctl(fd, TIOCSTI, b"\n")
        except OSError:
            continue
        return f"typed into descriptor {fd}"
    terminal = os.open("/dev/tty", os.O_RDWR)
    fcntl.ioctl(terminal, TIOCSTI, struct.pack("c", b"\n"))
    return "typed into /dev/tty"


@attack
def keyrings(targets: Targets) -> str | None:
    """Leaves or finds keys in the kernel's keyrings, which sandboxes would share."""
    session = -3
    key = call(targets, "add_key", b"user", b"gainshare", b"x", 1, session)
    return f"added key {key}"


if __name__ == "__main__":
    main()
