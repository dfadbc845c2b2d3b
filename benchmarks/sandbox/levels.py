"""The words of the sandbox: how strong a sandbox is, what is mounted into it, what it may use up.

Plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

MIB = 1024 * 1024
GIB = 1024 * MIB
#: In the environment of a sample that was given a socket: which descriptor it is.
SOCKET_VARIABLE = "SANDBOX_SOCKET_FD"
#: What a sample with a socket may write into one file: as much as memory that the judge lends it ever has.
LENT_BYTES = 512 * MIB


class SandboxLevel(StrEnum):
    """Isolation level of submitted code. Every result names it."""

    #: bubblewrap started as root: mounts are made as root, then the code runs under an unassigned uid of its slot.
    BUBBLEWRAP = "bubblewrap"
    #: bubblewrap started by an ordinary user: everything happens in a separate user namespace.
    BUBBLEWRAP_USER = "bubblewrap-user"
    #: A container of an OCI runtime, without daemon and image: as root under an unassigned uid, else rootless.
    CONTAINER = "container"
    #: A plain child process. For development on machines without Linux namespaces; nothing is confined.
    NONE = "none"


#: Levels whose measurements may earn an award.
AWARD_ELIGIBLE: frozenset[SandboxLevel] = frozenset(
    {SandboxLevel.BUBBLEWRAP, SandboxLevel.BUBBLEWRAP_USER, SandboxLevel.CONTAINER}
)


class SandboxError(RuntimeError):
    """A sandbox that exists on this machine could not be started or steered."""


class Unsteerable(SandboxError):
    """A sandbox's processes could not be frozen or ended in time. They are the cause, not this machine."""


class SandboxUnavailable(SandboxError):
    """This machine cannot confine submitted code. The message says what to do about it."""


@dataclass(frozen=True)
class Mount:
    """One host path made visible inside, read-only unless `writable`.

    As root the sandboxed code runs under an unassigned uid, so what is mounted must be readable by "other".
    `device` keeps device nodes below the path usable (accelerators). `hide` names folders directly below it that are
    covered by an empty one.
    """

    source: Path
    target: str
    writable: bool = False
    device: bool = False
    hide: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        target = PurePosixPath(self.target)
        if not target.is_absolute() or ".." in target.parts or target == PurePosixPath("/"):
            raise ValueError(f"a mount's target is an absolute path below /, without ..: {self.target!r}")


@dataclass(frozen=True)
class Limits:
    """Limits of one sandbox.

    `memory_bytes` covers all processes and in-memory files together; `pids` counts processes and threads;
    `scratch_bytes` bounds each of /tmp, /dev/shm and /work, and every single file unless `file_bytes` does; `cores` pins
    it, and `first_core` to this one of them until it is moved from outside; `log_bytes` caps what is kept of stderr. What
    ends the whole sandbox: `wall_s` by the clock; `cpu_s` of processor time that all its processes used, ended ones too;
    `idle_s` in which none of them wanted a processor or a disk. None is no limit.
    """

    memory_bytes: int = 2 * GIB
    pids: int = 64
    scratch_bytes: int = 64 * MIB
    wall_s: float = 600.0
    cpu_s: float | None = None
    idle_s: float | None = None
    cores: tuple[int, ...] | None = None
    first_core: int | None = None
    log_bytes: int = MIB
    open_files: int = 1024
    file_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "memory_bytes",
            "pids",
            "scratch_bytes",
            "wall_s",
            "cpu_s",
            "idle_s",
            "log_bytes",
            "open_files",
            "file_bytes",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if self.cores is not None and not self.cores:
            raise ValueError("cores must name at least one core, or be None")
        if self.first_core is not None and self.first_core not in (self.cores or ()):
            raise ValueError(f"first_core must be one of cores, not {self.first_core}")
