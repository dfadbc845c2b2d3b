"""Looks for the host's secrets in environments, command lines, descriptors and shared memory."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
from pathlib import Path

from .attempt import Refused, Targets, attack, call, first_that_works, main

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
    for fd in range(3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try:
            found.append(f"{fd} -> {Path(f'/proc/self/fd/{fd}').readlink()}")
        except OSError:
            continue
    return "; ".join(found) or None


@attack
def descriptors_of_processes(targets: Targets) -> str | None:
    """Reads what other processes have open, memory files included, through their links in /proc."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        if link.parts[2] == str(os.getpid()):
            continue
        try:
            os.close(os.open(link, os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            continue
        found.append(str(link))
    return ", ".join(found) or None


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
    session, user, get_id = -3, -4, 0
    return first_that_works(
        {
            "add_key": lambda: call(targets, "add_key", b"user", b"gainshare", b"x", 1, session),
            "request_key": lambda: call(targets, "request_key", b"user", b"gainshare", None, session),
            "keyctl": lambda: call(targets, "keyctl", get_id, user, 0, 0, 0),
            "/proc/keys": lambda: _read_some("/proc/keys"),
        }
    )


def _read_some(path: str) -> None:
    """An empty file tells nothing."""
    if not Path(path).read_bytes():
        raise Refused(errno.ENODATA, "empty")


if __name__ == "__main__":
    main()
