"""CPU cores for a process: core lists as Linux writes them, memory nodes, and settings worth trying.

Linux only: `bind` raises ValueError elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/devices/system")


@dataclass(frozen=True)
class Setting:
    """A number of threads, each with its own core."""

    cores: tuple[int, ...]

    @property
    def n_threads(self) -> int:
        return len(self.cores)

    @property
    def options(self) -> str:
        """The setting as options of the node's command line."""
        return f"--threads {self.n_threads} --cores {shown(self.cores)}"


def parsed(text: str) -> tuple[int, ...]:
    """Parse a core list like `0-3,8`. Raises ValueError for other text."""
    cores: list[int] = []
    try:
        for part in text.strip().split(","):
            first, dash, last = part.partition("-")
            cores.extend(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        cores = []
    if not cores or len(set(cores)) < len(cores):
        raise ValueError(f"cores must be a list like 0-3,8 with each core once, not {text!r}")
    return tuple(cores)


def shown(cores: Iterable[int]) -> str:
    """Write a core list as `parsed` reads it, in order."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def allowed() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def bind(cores: Sequence[int]) -> None:
    """Bind this process, and the threads that it starts later, to these cores. Raises ValueError where it may not."""
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("this system cannot bind processes to cores: leave --cores out")
    if missing := set(cores) - allowed():
        raise ValueError(
            f"core {shown(missing)} is not among those this process may use ({shown(allowed())}): change --cores"
        )
    os.sched_setaffinity(0, set(cores))


def settings(usable: set[int], system: Path = SYSTEM) -> list[Setting]:
    """Settings of 1, 2, 4 ... and all cores of one memory node, then of more over all nodes; hyper-threads come last."""
    nodes = [_spread(node, system) for node in _nodes(usable, system)]
    first, everywhere = nodes[0], [core for node in nodes for core in node]
    found = [Setting(tuple(first[:n])) for n in _counts(len(first))]
    found += [Setting(tuple(everywhere[:n])) for n in _counts(len(everywhere)) if n > len(first)]
    return found


def _counts(most: int) -> list[int]:
    """Numbers of threads to try: 1, 2, 4 ... and `most`."""
    return [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]


def _nodes(usable: set[int], system: Path) -> list[list[int]]:
    """The usable cores of each memory node, the largest node first; one node if the system has no information."""
    lists = sorted((system / "node").glob("node[0-9]*/cpulist"))
    texts = [text for file in lists if (text := file.read_text(encoding="ascii").strip())]
    nodes = [sorted(set(parsed(text)) & usable) for text in texts]
    return sorted((node for node in nodes if node), key=len, reverse=True) or [sorted(usable)]


def _spread(cores: Sequence[int], system: Path) -> list[int]:
    """Order cores: first one thread of each physical core, then the others."""

    def rank(core: int) -> int:
        siblings = system / "cpu" / f"cpu{core}" / "topology" / "thread_siblings_list"
        if not siblings.is_file():
            return 0
        return sorted(parsed(siblings.read_text(encoding="ascii"))).index(core)

    return sorted(cores, key=lambda core: (rank(core), core))
