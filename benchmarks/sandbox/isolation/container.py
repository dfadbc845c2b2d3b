"""Builds the bundle and the command of one container, for crun: an OCI runtime that needs neither daemon nor image.

The container shows what a bubblewrap sandbox shows (`interior`). The limits are those of our process group: crun
is told to leave cgroups alone. The system-call filter is ours, byte for byte, and installed by the last step. Started
by an ordinary user it is rootless: a user namespace with one uid, its own.

Runtime specification: https://github.com/opencontainers/runtime-spec.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.sandbox.accounting.placement import is_abandoned, owner
from benchmarks.sandbox.isolation.interior import (
    COVERED,
    FILTER_TARGET,
    SCRATCH,
    Interior,
    inner_command,
    system_folders,
    system_mounts,
)
from benchmarks.sandbox.isolation.seccomp import filter_bytes
from benchmarks.sandbox.levels import Limits, Mount, SandboxLevel, SandboxUnavailable

#: Needed besides crun, all from util-linux.
TOOLS = ("unshare", "setpriv", "mount")
NAME = "sample"
PREFIX = "gainshare-container-"
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")
CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")
READ_ONLY_PROC = ("bus", "fs", "irq", "sys", "sysrq-trigger")
#: crun looks at the cgroups that it is told to leave alone, and gives up where both versions are in use. It is shown
#: none. The folders that it makes are readable for the sample, whatever our own umask is.
HIDE_CGROUPS = 'umask 022 && mount -t tmpfs -o ro,size=4096 none /sys/fs/cgroup && exec "$@"'


@cache
def find_crun() -> Path:
    """The system's crun.

    Raises:
        SandboxUnavailable: it, or a tool that starts it, is missing.
    """
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise SandboxUnavailable(
                f"{tool} was not found. Install it (`apt-get install util-linux mount`)."
            )
    found = shutil.which("crun")
    if found is None:
        raise SandboxUnavailable("crun was not found. Install it (`apt-get install crun`).")
    return Path(found)


def make_bundle_folder() -> Path:
    """An empty folder for one container, the caller's to remove. What killed judges left is removed on the way."""
    top = Path(tempfile.gettempdir())
    for folder in top.glob(f"{PREFIX}*"):
        if is_abandoned(folder.name.removeprefix(PREFIX)) and folder.stat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{owner()}-", dir=top))


def container_command(inside: Interior, folder: Path) -> list[str]:
    """Writes the bundle into `folder` and returns the command.

    It ends with the sample and dies with its parent; so does the container's init.
    """
    crun = find_crun()
    (folder / "filter").write_bytes(filter_bytes())
    (folder / "filter").chmod(0o444)
    links, folders = system_folders()
    binds = [*folders, *system_mounts(), Mount(folder / "filter", FILTER_TARGET), *inside.mounts]
    _make_root(folder / "rootfs", links, binds)
    (folder / "config.json").write_text(json.dumps(_config(inside, binds)))
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    # All descriptors from 3 up to the socket; `inner.py` keeps that one.
    preserve = [] if inside.socket is None else ["--preserve-fds", str(inside.socket - 2)]
    return [
        *(str(shutil.which("unshare")), *user, "--mount", "--propagation", "private"),
        *("/bin/sh", "-c", HIDE_CGROUPS, "sh"),
        *(str(shutil.which("setpriv")), "--pdeathsig", "KILL"),
        *(str(crun), "--root", str(folder / "state"), "--cgroup-manager", "disabled"),
        *("run", "--bundle", str(folder), *preserve, NAME),
    ]


def _make_root(root: Path, links: Mapping[str, str], binds: Sequence[Mount]) -> None:
    """A folder with every place to mount at. Its own are readable for all; what is mounted keeps its own rights."""
    root.mkdir()
    root.chmod(0o755)
    for path, target in links.items():
        (root / path[1:]).symlink_to(target)
    for target in ("/proc", "/dev", *SCRATCH):
        _make_place(root, target, is_folder=True)
    made = [PurePosixPath("/dev"), *map(PurePosixPath, SCRATCH)]
    for bind in binds:
        if any(PurePosixPath(bind.target).is_relative_to(path) for path in made):
            continue  # is in a mount, where crun makes its place
        _make_place(root, bind.target, is_folder=bind.source.is_dir())
        made.append(PurePosixPath(bind.target))


def _make_place(root: Path, target: str, *, is_folder: bool) -> None:
    path = root / target[1:]
    for folder in [
        *reversed(path.relative_to(root).parents[:-1]),
        *([path.relative_to(root)] if is_folder else []),
    ]:
        (root / folder).mkdir(exist_ok=True)
        (root / folder).chmod(0o755)
    if not is_folder:
        path.touch()


def _config(inside: Interior, binds: Sequence[Mount]) -> dict[str, Any]:
    """config.json of the runtime specification."""
    is_root = os.geteuid() == 0
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in (*NAMESPACES, *(() if is_root else ("user",)))],
        "maskedPaths": [f"/proc/{name}" for name in COVERED],
        "readonlyPaths": [f"/proc/{name}" for name in READ_ONLY_PROC],
        "rootfsPropagation": "rprivate",
    }
    if not is_root:
        for kind, own in (("uidMappings", os.geteuid()), ("gidMappings", os.getegid())):
            linux[kind] = [{"containerID": inside.uid, "hostID": own, "size": 1}]
    return {
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": {"path": "rootfs", "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": inside.uid, "gid": inside.uid},
            "args": inner_command(inside, SandboxLevel.CONTAINER),
            "env": [f"{name}={value}" for name, value in inside.env.items()],
            "cwd": "/work",
            "capabilities": {kind: [] for kind in CAPABILITIES},
            "noNewPrivileges": True,
        },
        "mounts": list(_mounts(binds, inside.limits)),
        "linux": linux,
    }


def _mounts(binds: Sequence[Mount], limits: Limits) -> Iterator[dict[str, Any]]:
    yield _mount("proc", "/proc", "nosuid", "noexec", "nodev", "ro")
    yield _mount("tmpfs", "/dev", "nosuid", "noexec", "mode=755", "size=65536", "ro")
    for path in SCRATCH:
        yield _mount("tmpfs", path, "nosuid", "nodev", "mode=1777", f"size={limits.scratch_bytes}")
    for bind in binds:
        rights = "rw" if bind.writable or bind.device else "rro"
        device = () if bind.device else ("rnodev",)
        yield _mount("bind", bind.target, "rbind", rights, "rnosuid", *device, source=str(bind.source))
        for name in bind.hide:
            if (bind.source / name).is_dir():
                yield _mount(
                    "tmpfs", f"{bind.target}/{name}", "ro", "nosuid", "nodev", "mode=755", "size=4096"
                )


def _mount(kind: str, target: str, *options: str, source: str | None = None) -> dict[str, Any]:
    return {"type": kind, "destination": target, "source": source or kind, "options": list(options)}
