"""A folder that appears whole or not at all, whatever kills its writer. Knows nothing of what is in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.data.errors import DataError


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives a hidden folder beside `target`, which becomes `target` when the block ends without an error.

    Files directly in it are on the disk by then. What killed writers of the same target left is removed first; living
    ones hold a lock on theirs. With `replace` an existing target is removed at the end, just before the new one takes
    its name. Raises DataError where `target` exists otherwise, OSError where the disk refuses.
    """
    if target.exists() and not replace:
        raise DataError(f"{target} exists already: choose another folder, or replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    partial, lock = _locked_folder(target)
    try:
        yield partial
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        partial.chmod(0o755)
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
    for partial in target.parent.glob(_prefix(target) + "*"):
        lock = _lock(partial)
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that locks `folder` until it is closed; None where somebody else does or has removed it."""
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
