"""Folders of a confined node: its code and its state on this machine.

The node's user may write into `run` and the folders of `state` only. They are made here once and never written into
again, because anyone who can write there could redirect a starter that is root through links.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.patch.trees import BlobStore, shipped_tree, write_tree
from benchmarks.sandbox.isolation.identity import KEPT_SLOTS, sandbox_uid
from model import kernel_ways

#: Slots of the process that is never a judge: a node keeps its files, so its uid must stay the same.
NODE_PID = 0
DEVICES = 16  # of one machine at most; seats of their first nodes
BERTHS = 2  # of one device: a node, and its successor for the time of a handover
CANARY_SEATS = tuple(range(BERTHS * DEVICES, KEPT_SLOTS))  # no node of a device has one of these
TOKEN = "token"  # noqa: S105 - a file's name
KERNELS, PACKED = "native", "packed"  # folders of `state`, named as in a home
SOCKET = "http.sock"


@dataclass(frozen=True)
class NodeFolders:
    """`code` is what the node executes (it holds `model/`), `state` what it keeps, `run` its socket and token."""

    code: Path
    state: Path
    run: Path


def berth_seat(device: int, berth: int) -> int:
    """The seat of a node in a berth of a device. Raises ValueError for a device or berth that no machine has."""
    if not 0 <= device < DEVICES or not 0 <= berth < BERTHS:
        raise ValueError(
            f"a device is 0 to {DEVICES - 1} and a berth 0 to {BERTHS - 1}, not {device} and {berth}"
        )
    return berth * DEVICES + device


def node_slot(seat: int) -> int:
    """The slot of the node in a seat: nodes that run at the same time on one machine have different seats, 0 to 63.

    The first sixteen count down, as they always did: what such a node kept is still its own. Raises ValueError for
    another seat.
    """
    if not 0 <= seat < KEPT_SLOTS:
        raise ValueError(f"a seat is 0 to {KEPT_SLOTS - 1}, not {seat}")
    return DEVICES - 1 - seat if seat < DEVICES else seat


def node_uid(seat: int = 0) -> int | None:
    """The node's own uid, where this process may give it one: as root."""
    return sandbox_uid(node_slot(seat), pid=NODE_PID) if os.geteuid() == 0 else None


def make_folders(
    parent: Path, *, code: Path | None, kernels: Path | None, token: str | None, seat: int = 0
) -> NodeFolders:
    """Make the folders below `parent`, which is private to this user.

    `code` is a folder with the tree to serve, else the installed tree is copied. `kernels` holds this user's compiled
    libraries, which the node begins with, and their rates. `seat` decides the node's user, as root.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = parent / "state"
    state.mkdir(mode=0o755, exist_ok=True)
    _keep(state / KERNELS, _kernels(kernels) if kernels is not None else [], seat)
    _keep(state / PACKED, [], seat)
    run = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    if token is not None:
        file = os.open(run / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write(token)
    _hand_over(run, seat)
    return NodeFolders(code or installed_tree(Path(tempfile.mkdtemp(prefix="code-", dir=parent))), state, run)


def _kernels(folder: Path) -> list[Path]:
    """The libraries, and the rates that they were built by."""
    rates = kernel_ways.file_of(folder)
    return [*sorted(folder.glob("*.so")), *([] if rates is None else [rates])]


def remove_old(parent: Path) -> None:
    """Remove what earlier starts left: they were killed, or made room. Links are removed, never followed."""
    for pattern in ("run-*", "code-*", "new-*"):
        for folder in parent.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path, files: Sequence[Path], seat: int) -> None:
    """Keep a folder of the node's where it has all of these files; else begin it again with them.

    It is begun again, too, where it belongs to another user than the node's: the node could not write there.
    """
    if _is_nodes(folder, seat) and all((folder / file.name).exists() for file in files):
        return
    new = Path(tempfile.mkdtemp(prefix="new-", dir=folder.parent.parent))
    for file in files:
        shutil.copy(file, new / file.name)
    _hand_over(new, seat)
    if folder.exists():
        folder.rename(folder.parent.parent / f"{new.name}-old")
    new.rename(folder)


def _is_nodes(folder: Path, seat: int) -> bool:
    uid = node_uid(seat)
    with suppress(FileNotFoundError):
        owner = folder.stat().st_uid
        return uid is None or owner == uid
    return False


def _hand_over(folder: Path, seat: int) -> None:
    """Give a folder to the node's user. `folder` was made by this process, and no one else can write below it yet."""
    uid = node_uid(seat)
    if uid is not None:
        for path in (*folder.rglob("*"), folder):
            os.chown(path, uid, uid, follow_symlinks=False)
    folder.chmod(0o755)  # its parent is private; a mount must be readable


def installed_tree(target: Path) -> Path:
    """A copy of the installed tree in an empty folder, readable for every user."""
    with tempfile.TemporaryDirectory(prefix="new-", dir=target.parent) as blobs:
        store = BlobStore(Path(blobs))
        write_tree(shipped_tree(store), store, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o444)
    return target


def make_readable(folder: Path) -> None:
    """Let every user read what is below a folder of this user's, whose parent is private or holds no secret."""
    if os.geteuid() != 0:
        return  # then the node's user is this one
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        needed = mode | (0o555 if path.is_dir() else 0o444)
        if needed != mode:  # a change of mode, even to the same one, would make packed weights outdated
            path.chmod(needed)
