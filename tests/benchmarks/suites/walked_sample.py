"""A sample that stands still within its calls, while its memory is searched for inputs that are still to come.

Its tree is the shipped one, patched so that an entry of the stack writes what frames and `gc` show it, and then waits. The
test reads that, searches the whole of the process's writable memory from outside, and lets the call go on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs.builds.memory import REMEMBERED
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.side import Side, SideSetup
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import Tree
from benchmarks.sandbox import best_level
from benchmarks.suites import Suite
from benchmarks.suites.base import Exchange, Problem, Tensors
from tests.benchmarks.suites.suite_pairs import Trees
from tests.closed_processes import is_closed_init

LEAST_BYTES = 16  # of a piece: shorter ones may be anywhere by chance
PIECE_BYTES = 256  # 32 ids of text: a few of them are in every text
NOT_SECRET = ("lengths", "places", "is_new")  # the same in many calls
WALL_S = 1800.0
CHUNK_BYTES = 1 << 24

# Whole numbers as lists, which raw memory does not show; everything else is found there.
STANDS_STILL = """


def _stand_still():
    import gc, json, os, sys, time

    seen, frame = list(gc.get_objects()), sys._getframe(1)
    while frame is not None:
        seen += frame.f_locals.values()
        frame = frame.f_back
    lists = [
        list(value)
        for value in seen
        if type(value) in (list, tuple) and 1 < len(value) < 4096 and all(type(item) is int for item in value)
    ]
    with open("/tmp/walked.partial", "w") as file:
        json.dump(lists, file)
    os.rename("/tmp/walked.partial", "/tmp/walked")
    while os.path.exists("/tmp/walked"):
        time.sleep(0.002)


def _standing_still(function):
    def act(*given, **named):
        _stand_still()
        return function(*given, **named)

    return act
"""


@dataclass(frozen=True)
class Stop:
    """One moment within a call: `lists` of whole numbers that the code found, `memory` of the process."""

    lists: list[list[int]]
    memory: list[bytes]

    def holds(self, piece: bytes) -> bool:
        return any(piece in part for part in self.memory)

    def shows(self, numbers: Sequence[int]) -> bool:
        """Whether a list that the code found has these numbers one after the other."""
        wanted = list(numbers)
        return any(
            found[at : at + len(wanted)] == wanted
            for found in self.lists
            for at in range(len(found) - len(wanted) + 1)
        )


def pieces(values: Tensors) -> list[bytes]:
    """Pieces by which the tensors would be recognised, from their beginning and from their middle."""
    found = []
    for name, value in values.items():
        if name in NOT_SECRET:
            continue
        data = np.ascontiguousarray(value).tobytes()
        if len(data) >= LEAST_BYTES and len(set(data)) > 3:
            middle = len(data) // 2 // 8 * 8
            found += [
                data[:PIECE_BYTES],
                *([data[middle:][:PIECE_BYTES]] if len(data) > 2 * PIECE_BYTES else []),
            ]
    return found


class WalkedSample:
    """One side whose stack stands still at each entry of `entries`, `module:name` of the tree."""

    def __init__(self, suite: Suite, problem: Problem, trees: Trees, entries: Sequence[str]) -> None:
        self.suite, self.problem, self._trees = suite, problem, trees
        self._tree = patched(trees, entries)

    @contextmanager
    def started(self) -> Iterator[None]:
        level, trees = best_level(), self._trees
        with tree_folders((self._tree,), trees.store, trees.folder / "walked") as folders:
            folder = folders[self._tree.hash]
            REMEMBERED.build("candidate", folder, level=level, slot=0)
            setup = SideSetup(self.suite, level, choose_cores(), wall_s=WALL_S)
            self._side = Side("candidate", folder, self.suite, setup, 0)
            try:
                self._side.await_ready()
                self._side.load(self.problem)
                yield
            finally:
                self._side.close()

    def stops(
        self, exchanges: Sequence[Exchange], at_stop: Callable[[Path], object] = lambda root: None
    ) -> list[Stop]:
        """What there was to see at each stop of one call. `at_stop` is given the sandbox's root folder there."""
        found: list[Stop] = []
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(self._side.call, exchanges)
            while not call.done():
                if (walked := self._walked()) is not None:
                    found.append(Stop(json.loads(walked.read_text()), self._memory()))
                    at_stop(walked.parents[1])
                    walked.unlink()  # and it goes on
                time.sleep(0.002)
            call.result()
        return found

    def _walked(self) -> Path | None:
        for pid in self._side.pids():
            path = Path(f"/proc/{pid}/root/tmp/walked")
            if path.exists():
                return path
        return None

    def _memory(self) -> list[bytes]:
        """Of all its processes but an init that this user cannot read, which was closed before the first message."""
        read = [pid for pid in self._side.pids() if not is_closed_init(pid)]
        return [part for pid in read for part in writable_memory(pid)]


def patched(trees: Trees, entries: Sequence[str]) -> Tree:
    """The shipped tree with a stop at each entry."""
    tree = trees.shipped
    for path, names in by_path(entries).items():
        lines = [f"{name} = _standing_still({name})" for name in names]
        tree = trees.appended(path, STANDS_STILL + "\n\n" + "\n".join(lines) + "\n", to=tree)
    return tree


def by_path(entries: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        path, _, name = entry.partition(":")
        found.setdefault(path, []).append(name)
    return found


def writable_memory(pid: int) -> Iterator[bytes]:
    """All regions of a process that it can write to, and what was sent to it as memory."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights, _, _, _, *name = line.split(maxsplit=5)
            if "w" not in rights or (name and name[0].startswith(("[v", "/dev/"))):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            yield _read(memory, start, end)


def _read(memory: Any, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        try:
            part = os.pread(memory.fileno(), min(CHUNK_BYTES, end - start), start)
        except OSError:  # a guard page
            break
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)
