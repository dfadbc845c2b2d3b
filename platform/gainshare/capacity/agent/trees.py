"""Trees on this host that nodes may execute: each a private folder named by its hash, written and built whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import fault_point
from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.builds.memory import REMEMBERED
from benchmarks.pairs.nameless import PREFIX as COPY_PREFIX
from benchmarks.patch.blobs import SHA256
from benchmarks.patch.trees import BlobStore, Tree, shipped_tree, write_tree
from benchmarks.sandbox import SandboxLevel, best_level

INSTALLED = "installed"  # the name of the installed tree's folder, which only canaries execute
KEPT = 4  # trees that are not in use, the last ones used
BUILD_SLOT = 3  # of this process's sandboxes: the judge's own have other ones
_NEW = "new-"


@dataclass(frozen=True, slots=True)
class TreeFolders:
    """The folder of trees. Only its owner may write there: nodes see a tree through a mount that is read-only."""

    folder: Path
    level: str = ""
    """The sandbox that builds; empty for the machine's best."""

    def make(self) -> None:
        """Make the folder, and remove what was left of builds and canaries that were killed. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for prefix in (_NEW, COPY_PREFIX):
            for left in self.folder.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)

    def path(self, tree: str) -> Path:
        """The folder of a tree, there or not; of the installed one for ""."""
        return self.folder / (tree or INSTALLED)

    def has(self, tree: str) -> bool:
        return self.path(tree).is_dir()

    def note_use(self, tree: str) -> None:
        """Count a tree as the last one used."""
        with suppress(OSError):
            os.utime(self.path(tree))

    @contextmanager
    def new(self) -> Iterator[Path]:
        """A folder to prepare a tree in, gone afterwards."""
        made = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.folder))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def build(self, tree: Tree, store: BlobStore, new: Path, cancellation: Cancellation) -> None:
        """Write a tree whose blobs are in `store`, build it in the judge's sandbox, and put it where nodes find it.

        Raises TreeError, SideFailed, SandboxError, Cancelled or OSError.
        """
        self._build(tree, store, new, cancellation, self.path(tree.hash))

    def build_installed(self, new: Path, cancellation: Cancellation) -> None:
        """The same for the installed tree, again each time: another version may have been installed since."""
        store = BlobStore(new / "blobs")
        shutil.rmtree(self.path(""), ignore_errors=True)
        self._build(shipped_tree(store), store, new, cancellation, self.path(""))

    def _build(
        self, tree: Tree, store: BlobStore, new: Path, cancellation: Cancellation, target: Path
    ) -> None:
        written = new / "tree"
        write_tree(tree, store, written)
        for folder, _, _ in os.walk(written):
            Path(folder).chmod(0o755)  # for the sandboxes' own uids; the parent is private
        level = SandboxLevel(self.level) if self.level else best_level()
        fault_point("agent.tree.before_build")
        REMEMBERED.build("candidate", written, level=level, slot=BUILD_SLOT, cancellation=cancellation)
        cancellation.check()
        _sync(written)
        fault_point("agent.tree.before_rename")
        written.rename(target)
        fault_point("agent.tree.after_rename")

    def remove_unused(self, in_use: Collection[str]) -> list[str]:
        """Remove trees that are not in use, except the last ones used. Returns which.

        Only folders that a hash names are trees: a canary that runs has copies of its trees next to them.
        """
        trees = [path for path in self.folder.iterdir() if SHA256.fullmatch(path.name) and path.is_dir()]
        idle = [path for path in trees if path.name not in in_use]
        idle.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in idle[KEPT:]:
            gone = path.rename(self.folder / f"{_NEW}{path.name}")  # at once, so that no half is found
            shutil.rmtree(gone, ignore_errors=True)
        return [path.name for path in idle[KEPT:]]


def _sync(folder: Path) -> None:
    """Have all of it on the disk before its name says that it is whole."""
    for parent, _, files in os.walk(folder):
        for path in (*(Path(parent) / name for name in files), Path(parent)):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
