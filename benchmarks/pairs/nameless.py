"""A copy of a tree for one side of one pair, in a folder whose name says nothing.

A sandbox shows where its mounts come from (`/proc/self/mountinfo`), and the trees' own folders are named by their hashes.
Copies and not links: how many links a file has would tell whether the other side has the same tree.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "side-"
WRITTEN_AT = (1_000_000_000, 1_000_000_000)  # seconds since the epoch; of every file of every tree


@contextmanager
def nameless_copy(tree: Path) -> Iterator[Path]:
    """A folder next to `tree` with the same `model/`, read by everyone; gone after the block."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=tree.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(tree / "model", folder / "model", copy_function=_copied)
        for path, _, _ in os.walk(folder):
            Path(path).chmod(0o755)
            os.utime(path, WRITTEN_AT)
        yield folder


def _copied(source: str, target: str) -> str:
    shutil.copyfile(source, target)
    Path(target).chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    os.utime(target, WRITTEN_AT)
    return target
