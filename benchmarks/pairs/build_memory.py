"""Remembers, in this process's memory, what trees were built to: a base that many patches start from is compiled once.

What is remembered is private to a tree's hash, a sandbox level and a compiler, and only builds that went well are. A
confirmation does not ask here: its builds are new. Knows nothing of jobs.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from benchmarks.pairs.build import build_tree, compiler_identity, place
from benchmarks.sandbox import SandboxLevel

MOST_TREES = 32  # of at most 8 MiB each, some 100 kB as a rule

Key = tuple[str, SandboxLevel, str]


class BuildMemory:
    """Libraries by tree; the longest unused go first. Any thread may use it."""

    def __init__(self) -> None:
        self._libraries: OrderedDict[Key, bytes] = OrderedDict()  # empty: a tree of Python only
        self._lock = Lock()

    def build(
        self,
        name: str,
        tree: Path,
        tree_hash: str,
        *,
        level: SandboxLevel,
        slot: int,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        """What `build_tree` does, or its result put into `tree` again. Raises SideFailed as `build_tree` does."""
        key = (tree_hash, level, compiler_identity())
        with self._lock:
            library = self._libraries.get(key)
            if library is not None:
                self._libraries.move_to_end(key)
        if library is None:
            self._remember(key, build_tree(name, tree, level=level, slot=slot, on_log=on_log))
        elif library:
            place(tree, library, name)

    def _remember(self, key: Key, built: Path | None) -> None:
        library = b"" if built is None else built.read_bytes()
        with self._lock:
            self._libraries[key] = library
            if len(self._libraries) > MOST_TREES:
                self._libraries.popitem(last=False)
