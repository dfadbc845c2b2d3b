"""Interior of a sandbox at every level: parts of the system, scratch folders, the last step before the sample."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sandbox.isolation.identity import USER_UID, sandbox_uid
from benchmarks.sandbox.levels import LENT_BYTES, Limits, Mount, SandboxLevel
from benchmarks.sandbox.runtime import base_interpreter, interpreter_mounts

INNER_TARGET = "/sandbox/inner.py"
FILTER_TARGET = "/sandbox/filter"
#: Processes that are ours in every sandbox: the monitor outside (bubblewrap, crun) and the init inside.
OVERHEAD_PIDS = 2
SCRATCH = ("/tmp", "/dev/shm", "/work")  # noqa: S108 - paths inside the sandbox
#: Read-only pieces of the system that interpreters and compilers need. Missing ones are left out.
SYSTEM = ("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu", "/sys/devices/system/node")
#: Kernel files that show more of the host than a sample needs, among them what others do on its processors, or for how
#: long they do it. Covered by /dev/null, or by an empty folder.
COVERED = (
    "stat",
    "uptime",
    "loadavg",
    "schedstat",
    "interrupts",
    "softirqs",
    "vmstat",
    "zoneinfo",
    "diskstats",
    "pressure",
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


@dataclass(frozen=True)
class Interior:
    """Command, mounts and environment of a sandbox. `env` is its whole environment; `slot` decides its uid as root.

    The uids of process `uid_of` are meant, of this one by default.
    `has_cgroup` says whether a cgroup counts it; `socket` is the number of the one descriptor that is kept in addition to the
    pipes, if any.
    """

    argv: Sequence[str]
    mounts: Sequence[Mount]
    limits: Limits
    env: Mapping[str, str]
    slot: int
    has_cgroup: bool
    socket: int | None = None
    uid_of: int | None = None

    @property
    def uid(self) -> int:
        """The uid as seen inside: an unassigned one as root, else our own under another number."""
        return sandbox_uid(self.slot, pid=self.uid_of) if os.geteuid() == 0 else USER_UID


def system_folders() -> tuple[dict[str, str], list[Mount]]:
    """Links (path -> target) and mounts: /usr and the folders next to it, which lead into /usr on most systems."""
    links: dict[str, str] = {}
    mounts = [Mount(Path("/usr"), "/usr")]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(name)
        if path.is_symlink():
            links[name] = str(path.readlink())
        elif path.is_dir():
            mounts.append(Mount(path, name))
    return links, mounts + [_system_mount(Path(name)) for name in SYSTEM if Path(name).exists()]


def _system_mount(path: Path) -> Mount:
    """Read-only, without what tells how long a processor was idle, or ran at which speed."""
    idle = (f"{cpu.name}/{name}" for cpu in path.glob("cpu[0-9]*") for name in ("cpuidle", "cpufreq"))
    return Mount(path, str(path), hide=("cpuidle", "cpufreq", *sorted(idle)))


def system_mounts() -> list[Mount]:
    """Our last step and the interpreter that runs it."""
    return [Mount(Path(__file__).with_name("inner.py"), INNER_TARGET), *interpreter_mounts()]


def _largest_file(inside: Interior) -> int:
    """Bytes that a file may have."""
    most = inside.limits.file_bytes or inside.limits.scratch_bytes
    return most if inside.socket is None else max(most, LENT_BYTES)


def inner_command(inside: Interior, level: SandboxLevel) -> list[str]:
    """Command that is executed inside: our last step, which then becomes the sample.

    RLIMIT_NPROC counts what the sample's uid runs, as root, or what runs in the user namespace (Linux 5.14+), with
    its init. It is the limit where there is no cgroup; next to one it is higher, as only a cgroup tells that its limit
    was hit. The init is of the sample's uid unless it is bubblewrap's, as root.
    """
    limits = inside.limits
    is_own_init = level is not SandboxLevel.BUBBLEWRAP
    processes = limits.pids + int(is_own_init) + (OVERHEAD_PIDS if inside.has_cgroup else 0)
    settings = {
        "socket": inside.socket,
        "filter": FILTER_TARGET if level is SandboxLevel.CONTAINER else None,
        "init": is_own_init,
        "drop": level is SandboxLevel.BUBBLEWRAP,
        "uid": inside.uid,
        "limits": {
            "RLIMIT_FSIZE": _largest_file(inside),
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_NPROC": processes,
        },
    }
    return [str(base_interpreter()), "-I", "-S", "-B", INNER_TARGET, json.dumps(settings), *inside.argv]
