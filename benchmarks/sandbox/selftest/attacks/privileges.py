"""Tries to become more than an unprivileged process: root, capabilities, namespaces, kernel interfaces."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import time
from functools import partial
from pathlib import Path

from .attempt import Targets, attack, call, first_that_works, in_child, main

CLONE_NEWUSER = 0x10000000
NAMESPACES = {"mnt": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "pid": 0x20000000, "net": 0x40000000}
SIGCHLD = 17
MS_REMOUNT, MS_BIND = 32, 4096


@attack
def become_root(targets: Targets) -> str | None:
    return first_that_works(
        {
            "setuid": lambda: os.setuid(0),
            "setresuid": lambda: os.setresuid(0, 0, 0),
            "setgid": lambda: os.setgid(0),
            "setgroups": lambda: os.setgroups([0]),
        }
    )


@attack
def capabilities(targets: Targets) -> str | None:
    """Any capability left over, or the right to gain one by executing something."""
    lines = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
    )
    found = [f"{name}={lines[name]}" for name in lines if name.startswith("Cap") and int(lines[name], 16)]
    if lines["NoNewPrivs"] != "1":
        found.append("NoNewPrivs=0")
    return ", ".join(found) or None


@attack
def set_id_programs(targets: Targets) -> str | None:
    """Runs the system's set-uid programs and looks whether one runs as another user."""
    for name in ("su", "passwd", "newgrp", "mount", "chsh", "sudo", "gpasswd"):
        program = Path("/usr/bin", name)
        if not program.exists() or not program.stat().st_mode & 0o4000:
            continue
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(reader, 0)  # an open pipe: programs that ask for a password wait here
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            os.execv(program, [name])  # noqa: S606 - no shell is wanted
        time.sleep(0.02)
        status = Path("/proc", str(child), "status")
        uids = next(
            (line.split()[1:] for line in status.read_text().splitlines() if line.startswith("Uid:")), []
        )
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)
        if len(set(uids)) > 1 or "0" in uids:
            return f"{name} ran as {uids}"
    return None


@attack
def user_namespace_by_unshare(targets: Targets) -> str | None:
    def attempt() -> str:
        call(targets, "unshare", CLONE_NEWUSER)
        return "all capabilities in a namespace of our own"

    return in_child(attempt)


@attack
def user_namespace_by_clone(targets: Targets) -> str | None:
    child = call(targets, "clone", CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "a child in a namespace of its own"


@attack
def user_namespace_by_clone3(targets: Targets) -> str | None:
    """clone3 hides its flags from filters behind a pointer."""
    arguments = ctypes.create_string_buffer(struct.pack("8Q", CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0), 64)
    child = call(targets, "clone3", arguments, 64)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "a child in a namespace of its own"


@attack
def other_namespaces(targets: Targets) -> str | None:
    def attempt() -> str | None:
        return first_that_works(
            {name: partial(call, targets, "unshare", flag) for name, flag in NAMESPACES.items()}
        )

    return in_child(attempt)


@attack
def enter_namespaces(targets: Targets) -> str | None:
    """Joins namespaces by descriptor, also the ones we are in: setns itself is the way back out."""

    def join(pid: str, name: str) -> None:
        fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
        try:
            call(targets, "setns", fd, 0)
        finally:
            os.close(fd)

    pids, names = (
        ("self", "1", str(targets["victim_pid"])),
        ("mnt", "net", "uts", "ipc", "pid", "user", "cgroup"),
    )
    return in_child(
        lambda: first_that_works(
            {f"{name} of {pid}": partial(join, pid, name) for pid in pids for name in names}
        )
    )


@attack
def mounts(targets: Targets) -> str | None:
    """A new mount, a root that is writable again, the new mount interface, a change of root."""
    return in_child(
        lambda: first_that_works(
            {
                "mount": lambda: call(targets, "mount", b"none", b"/tmp", b"tmpfs", 0, None),
                "remount": lambda: call(targets, "mount", b"none", b"/", b"none", MS_REMOUNT | MS_BIND, None),
                "umount": lambda: call(targets, "umount2", b"/proc", 2),
                "fsopen": lambda: call(targets, "fsopen", b"tmpfs", 0),
                "open_tree": lambda: call(targets, "open_tree", -100, b"/usr", 1),
                "chroot": lambda: call(targets, "chroot", b"/work"),
                "pivot_root": lambda: call(targets, "pivot_root", b"/work", b"/work"),
            }
        )
    )


@attack
def kernel_programs(targets: Targets) -> str | None:
    """bpf and performance events: programs in the kernel, counters of the whole machine."""
    attributes = ctypes.create_string_buffer(128)
    return first_that_works(
        {
            "bpf": lambda: call(targets, "bpf", 0, attributes, 0),
            "perf_event_open": lambda: call(targets, "perf_event_open", attributes, 0, -1, -1, 0),
            "kernel module": lambda: call(targets, "init_module", b"", 0, b""),
        }
    )


@attack
def user_fault_handler(targets: Targets) -> str | None:
    """userfaultfd stops the kernel in the middle of a copy."""
    os.close(call(targets, "userfaultfd", 1))
    return "handling page faults"


@attack
def io_uring(targets: Targets) -> str | None:
    """Does system calls past the filter."""
    os.close(call(targets, "io_uring_setup", 4, ctypes.create_string_buffer(120)))
    return "a ring was set up"


@attack
def personality(targets: Targets) -> str | None:
    """Switches off address randomisation, or makes readable memory executable."""
    call(targets, "personality", 0x0040000)
    return "changed"


@attack
def unaccounted_memory(targets: Targets) -> str | None:
    """Memory without a mapping."""
    os.close(call(targets, "memfd_create", b"x", 0))
    return "a memory file was made"


@attack
def foreign_system_calls(targets: Targets) -> str | None:
    """32-bit and x32 calls have other numbers than the filter knows. They must kill, not pass."""
    if platform.machine() != "x86_64":
        return None

    def legacy() -> str:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        pid = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        if pid != os.getpid():
            raise OSError("the kernel has no 32-bit calls")
        return "a 32-bit call passed"

    def x32() -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(ctypes.c_long(0x40000000 | 39)) != os.getpid():
            raise OSError("the kernel has no x32 calls")
        return "an x32 call passed"

    found = []
    for attempt in (legacy, x32):
        try:
            found.append(in_child(attempt))
        except OSError:
            continue
    return ", ".join(filter(None, found)) or None


if __name__ == "__main__":
    main()
