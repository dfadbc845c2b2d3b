"""Tries to write outside the scratch folders and to read the host's files."""

from __future__ import annotations

import importlib.util
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from .attempt import Targets, attack, call, first_that_works, main


def _create(folder: str, name: str) -> None:
    path = Path(folder, name)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    path.unlink()


def _open(file: str, flags: int) -> None:
    os.close(os.open(file, flags))


def _each(attempt: Callable[..., object], names: Iterable[str], *arguments: object) -> str | None:
    """Collect what works of `attempt(name, *arguments)`."""
    return first_that_works({name: partial(attempt, name, *arguments) for name in names})


@attack
def write_outside_scratch(targets: Targets) -> str | None:
    """A new file in every folder of the root, the system, the interpreter and the mounts."""
    folders = [
        "/",
        "/etc",
        "/dev",
        "/usr",
        "/usr/bin",
        "/usr/lib",
        "/sys",
        "/proc",
        *targets["mounted_folders"],
    ]
    return _each(_create, folders, targets["token"])


@attack
def overwrite_mounted_files(targets: Targets) -> str | None:
    """Opens the interpreter, the last start-up step and system tools for writing."""
    files = [
        "/usr/bin/env",
        "/bin/sh",
        "/etc/ld.so.cache",
        "/proc/self/exe",
        "/proc/1/exe",
        *targets["mounted_files"],
    ]
    return _each(_open, files, os.O_WRONLY)


@attack
def host_files(targets: Targets) -> str | None:
    """The judge's home, this project's checkout, other programs' state, accounts of the host."""
    return _each(_open, targets["host_files"], os.O_RDONLY)


@attack
def host_folders(targets: Targets) -> str | None:
    return _each(os.scandir, targets["host_folders"])


@attack
def host_through_proc(targets: Targets) -> str | None:
    """Other processes' views of the file system: /proc/<pid>/root and /proc/<pid>/cwd."""
    secret = targets["secret_file"]
    views = [f"/proc/{pid}/{view}" for pid in ("1", "self") for view in ("root", "cwd")]
    paths = [view + step + secret for view in views for step in ("", "/..", "/../../..")]
    return _each(_open, paths, os.O_RDONLY)


@attack
def project_importable(targets: Targets) -> str | None:
    """The editable install in the mounted packages points to the checkout of this project. A node has its tree."""
    found = []
    for name in ("gainshare", "bounty", "benchmarks", "model"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # an empty covering folder has no origin
            continue
        if not targets["served"] or not spec.origin.startswith(targets["served"]):
            found.append(spec.origin)
    return ", ".join(found) or None


@attack
def kernel_settings(targets: Targets) -> str | None:
    """Opens what would run a program of ours as root, or stop the machine."""
    names = [
        "sys/kernel/core_pattern",
        "sys/kernel/modprobe",
        "sysrq-trigger",
        "sys/vm/drop_caches",
        "sys/kernel/hostname",
    ]
    files = [f"/proc/{name}" for name in names]
    files += [
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
    ]
    return _each(_open, files, os.O_WRONLY)


@attack
def device_nodes(targets: Targets) -> str | None:
    """Makes a node for the host's first disk; opens the ones that reach memory or disks."""
    node = partial(os.mknod, "/work/disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    names = ("mem", "kmem", "port", "kmsg", "vda", "sda", "nvme0n1", "fuse", "kvm", "net/tun", "loop-control")
    opened = _each(_open, [f"/dev/{name}" for name in names], os.O_RDWR)
    return opened or first_that_works({"mknod": node})


@attack
def set_id_file(targets: Targets) -> str | None:
    """A file that would run as its owner on the host."""
    path = Path(tempfile.gettempdir(), targets["token"])
    path.write_bytes(b"#!/bin/sh\n")
    try:
        path.chmod(0o6755)
        return oct(path.stat().st_mode) if path.stat().st_mode & 0o6000 else None
    finally:
        path.unlink()


@attack
def file_by_handle(targets: Targets) -> str | None:
    """Opens files by inode, past every mount."""
    blank = b"\x80\0\0\0" + b"\0" * 132
    root = os.open("/", os.O_RDONLY)
    try:
        return first_that_works(
            {
                "asked for a handle": lambda: call(
                    targets, "name_to_handle_at", -100, b"/usr", blank, b"\0" * 4, 0
                ),
                "opened by a handle": lambda: call(
                    targets, "open_by_handle_at", root, struct.pack("<Iiq", 8, 1, 2), os.O_RDONLY
                ),
            }
        )
    finally:
        os.close(root)


if __name__ == "__main__":
    main()
