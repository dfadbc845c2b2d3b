"""Write a folder atomically: it appears whole or not at all, and never replaces a folder with other content.

Does not import torch.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

IsOurs = Callable[[Path], bool]  # whether an existing folder may be replaced by the writer's next one


class FolderTakenError(FileExistsError):
    """A folder whose content would be lost by writing; the message says what to do."""


def has_format(file: Path, kind: str) -> bool:
    """Whether `file` is a JSON document with a "format" of this kind, in any version: `kind`/number."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and str(document.get("format")).startswith(f"{kind}/")


def require_free(target: Path, is_ours: IsOurs | None = None, *, name: str = "folder") -> None:
    """Raises FolderTakenError unless `target` is missing, an empty folder, or ours; `name` is the kind of ours."""
    if not target.exists():
        return
    if Path.cwd().is_relative_to(target.resolve()):
        raise FolderTakenError(f"{target} contains the current folder: choose another one")
    if not target.is_dir():
        raise FolderTakenError(f"{target} is a file: choose another folder")
    if not any(target.iterdir()):
        return
    if is_ours is None:
        raise FolderTakenError(f"{target} is not empty: choose another folder, or empty it first")
    if not is_ours(target):
        raise FolderTakenError(
            f"{target} has other content than a {name}, which would be lost: choose another folder, or empty it first"
        )


@contextmanager
def new_folder(target: Path, *, is_ours: IsOurs | None = None, name: str = "folder") -> Iterator[Path]:
    """Context with a hidden folder next to `target`, which becomes `target` when the block ends without an error.

    Files directly in it are synced to disk by then. Leftovers of killed writers of the same target are removed first;
    running writers hold a lock on theirs. An existing target is removed at the end, just before the new one takes its
    name. Raises FolderTakenError as `require_free`, before the block and again after it, and OSError of the disk.
    """
    require_free(target, is_ours, name=name)
    target = target.resolve()  # a link stays, and its target is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    partial, lock = _locked_folder(target)
    try:
        yield partial
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        partial.chmod(0o755)
        require_free(target, is_ours, name=name)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _prefix(target: Path) -> str:
    return f".{target.name}.new-"


def _locked_folder(target: Path) -> tuple[Path, int]:
    while True:
        partial = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        lock = _lock(partial)
        if lock is not None:
            return partial, lock


def _remove_leftovers(target: Path) -> None:
    for partial in target.parent.glob(glob.escape(_prefix(target)) + "*"):
        lock = _lock(partial)
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that locks `folder` until it is closed; None if another process has locked or removed it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not folder.exists():  # it was removed between the two calls
        os.close(descriptor)
        return None
    return descriptor


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
