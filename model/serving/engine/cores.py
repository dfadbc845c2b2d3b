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
    """So many threads, each with a core for itself."""

    cores: tuple[int, ...]

    @property
    def n_threads(self) -> int:
        return len(self.cores)

    @property
    def options(self) -> str:
        """Of the node's command line."""
        return f"--threads {self.n_threads} --cores {shown(self.cores)}"


def parsed(text: str) -> tuple[int, ...]:
    """The cores of a list like `0-3,8`. Raises ValueError for text that is none."""
    cores: list[int] = []
    try:
        for part in text.strip().split(","):
            first, dash, last = part.partition("-")
            cores.extend(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        cores = []
    if not cores or len(set(cores)) < len(cores):
        raise ValueError(f"cores are a list like 0-3,8, each named once, not {text!r}")
    return tuple(cores)


def shown(cores: Iterable[int]) -> str:
    """The list that `parsed` reads, in order."""
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
    """Keeps this process, and the threads it starts from now on, to these cores. Raises ValueError where it may not."""
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("this system does not bind processes to cores: leave --cores out")
    if missing := set(cores) - allowed():
        raise ValueError(
            f"core {shown(missing)} is not among those this process may use ({shown(allowed())}): change --cores"
        )
    os.sched_setaffinity(0, set(cores))


def settings(usable: set[int], system: Path = SYSTEM) -> list[Setting]:
    """1, 2, 4 ... and all cores of one memory node, then more than that over all nodes; a core's second thread comes last."""
    nodes = [_spread(node, system) for node in _nodes(usable, system)]
    first, everywhere = nodes[0], [core for node in nodes for core in node]
    found = [Setting(tuple(first[:n])) for n in _counts(len(first))]
    found += [Setting(tuple(everywhere[:n])) for n in _counts(len(everywhere)) if n > len(first)]
    return found


def _counts(most: int) -> list[int]:
    """1, 2, 4 ... and `most`."""
    return [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]


def _nodes(usable: set[int], system: Path) -> list[list[int]]:
    """The usable cores of each memory node, the largest node first; one node where the system does not say."""
    lists = sorted((system / "node").glob("node[0-9]*/cpulist"))
    texts = [text for file in lists if (text := file.read_text(encoding="ascii").strip())]
    nodes = [sorted(set(parsed(text)) & usable) for text in texts]
    return sorted((node for node in nodes if node), key=len, reverse=True) or [sorted(usable)]


def _spread(cores: Sequence[int], system: Path) -> list[int]:
    """First one thread of each physical core, then the others."""

    def rank(core: int) -> int:
        siblings = system / "cpu" / f"cpu{core}" / "topology" / "thread_siblings_list"
        if not siblings.is_file():
            return 0
        return sorted(parsed(siblings.read_text(encoding="ascii"))).index(core)

    return sorted(cores, key=lambda core: (rank(core), core))
