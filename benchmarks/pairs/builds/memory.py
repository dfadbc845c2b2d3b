"""Remembers, in this process's memory, what C++ sources were built to: those that a patch left alone are compiled once.

What is remembered is private to the sources' digest, a sandbox level and a compiler, and only builds that went well
are. A compiler sees nothing of a tree but these sources, so what else a patch changes is in no library. Equal sources are
compiled once also when two trees are built at the same time. A confirmation has a memory of its own: its builds are new.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.builds.build import check_tree, compile_native, compiler_identity, place, sources_digest
from benchmarks.sandbox import SandboxLevel

MOST_LIBRARIES = 32  # of at most 8 MiB each, some 100 kB as a rule

Key = tuple[str, SandboxLevel, str]


class BuildMemory:
    """Libraries by sources; the longest unused go first. Any thread may use it."""

    def __init__(self) -> None:
        self._libraries: OrderedDict[Key, bytes] = OrderedDict()  # empty: a tree of Python only
        self._compiling: dict[Key, Lock] = {}
        self._lock = Lock()

    def build(
        self,
        name: str,
        tree: Path,
        *,
        level: SandboxLevel,
        slot: int,
        on_log: Callable[[str], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        """Do as `build_tree`, with a library from memory where there is one. Raises what `build_tree` does."""
        check_tree(name, tree, level=level, slot=slot, cancellation=cancellation)
        key = (sources_digest(tree), level, compiler_identity())
        with self._alone(key):  # who waits here finds the library, or compiles where the other one failed
            library = self._recall(key)
            if library is None:
                library = compile_native(
                    name, tree, level=level, slot=slot, on_log=on_log, cancellation=cancellation
                )
                self._remember(key, library)
        if library:
            place(tree, library, name)

    @contextmanager
    def _alone(self, key: Key) -> Iterator[None]:
        """One thread at a time for each key."""
        with self._lock:
            lock = self._compiling.setdefault(key, Lock())
        with lock:
            yield

    def _recall(self, key: Key) -> bytes | None:
        with self._lock:
            if key not in self._libraries:
                return None
            self._libraries.move_to_end(key)
            return self._libraries[key]

    def _remember(self, key: Key, library: bytes) -> None:
        with self._lock:
            self._libraries[key] = library
            if len(self._libraries) > MOST_LIBRARIES:
                forgotten, _ = self._libraries.popitem(last=False)
                self._compiling.pop(forgotten, None)


REMEMBERED = BuildMemory()
"""This process's own, shared by all that builds trees over and over."""
