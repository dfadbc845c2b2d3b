"""Copies of a run's trees for the sides of its pairs, in folders whose names say nothing.

A sandbox shows where its mounts come from (`/proc/self/mountinfo`), and the trees' own folders are named by their hashes.
Copies and not links: how many links a file has would tell whether the other side has the same tree.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.pairs.seats import SEATS

PREFIX = "side-"
WRITTEN_AT = (1_000_000_000, 1_000_000_000)  # seconds since the epoch; of every file of every tree


class NamelessCopies:
    """Copies of a run's trees, made when a pair first needs them: two of base, one of each other. Gone with `close`.

    All pairs of a run share them: to write some hundred files for each side can take longer than the calls of a pair. No
    side can write to its copy. Which copy of base a side gets is drawn for each pair, whatever its partner runs, so what
    tells the copies apart (numbers of files, when they were made) says nothing about the partner.
    """

    def __init__(self, trees: Mapping[str, Path]) -> None:
        """`trees` are the folders of base, candidate and old, of those that the run has."""
        self._trees = dict(trees)
        self._made: dict[Path, list[Path]] = {}
        self._folders = ExitStack()

    def draw(self, tree: str, order: random.Random) -> dict[str, Path]:
        """A folder with `model/` for each side of a pair of kind `tree`. Two sides never share one."""
        trees = {side: self._trees[name] for side, name in SEATS[tree].items()}
        have_one = len(set(trees.values())) == 1
        drawn = {}
        for path in dict.fromkeys(trees.values()):
            count = 2 if have_one or path == self._trees["base"] else 1
            drawn[path] = order.sample(self._copies(path, count), count)
        return {side: drawn[path].pop() for side, path in trees.items()}

    def _copies(self, tree: Path, count: int) -> list[Path]:
        made = self._made.setdefault(tree, [])
        while len(made) < count:
            made.append(self._folders.enter_context(nameless_copy(tree)))
        return made

    def close(self) -> None:
        """Remove all copies."""
        self._made.clear()
        self._folders.close()


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
