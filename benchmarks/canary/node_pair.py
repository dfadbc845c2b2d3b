"""The two nodes of one round: asked by turns, one of them frozen at any time, or both at once, each on its own core.

Clocked requests go by turns on the clocked core. The others may go to both at once: nothing that decides rests on
their times.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from benchmarks.canary.answers import Answer, Ask
from benchmarks.canary.exchange import Exchanged
from benchmarks.canary.node import CanaryNode, NodeFailed, NodeSetup
from benchmarks.pairs.cores import CacheScrubber

CANDIDATE, PARTNER = "candidate", "partner"
SIDES = (CANDIDATE, PARTNER)
T = TypeVar("T")


class NodePair:
    """`code` is each side's tree. `folder` keeps their state from one round to the next. All names are of `SIDES`.

    `cpu_while_frozen_ns` is what each used so far in this round, while it was frozen. Use it inside `ended`.
    """

    def __init__(
        self, code: Mapping[str, Path], folder: Path, seats: Mapping[str, int], setup: NodeSetup
    ) -> None:
        self._code, self._folder, self._seats, self._setup = dict(code), folder, dict(seats), setup
        self._cores = setup.cores
        self._scrubber = CacheScrubber(setup.cores.measuring)
        self._nodes: dict[str, CanaryNode] = {}
        self.cpu_while_frozen_ns = dict.fromkeys(SIDES, 0)

    def __getitem__(self, side: str) -> CanaryNode:
        return self._nodes[side]

    @contextmanager
    def ended(self) -> Iterator[None]:
        """End both nodes after the block, and remove what only a running node needs; a block's failure goes first."""
        self._nodes = {}
        self.cpu_while_frozen_ns = dict.fromkeys(SIDES, 0)
        try:
            yield
        except BaseException:
            for node in self._nodes.values():
                with suppress(NodeFailed):
                    node.close()
            raise
        for node in self._nodes.values():
            node.close()
            shutil.rmtree(node.folders.run, ignore_errors=True)

    def start(self, names: Sequence[str], ask: Ask, *, is_clocked: bool) -> dict[str, tuple[Answer, int]]:
        """Start both in this order. Each side's answer to its first request, and the time since it was spawned."""
        if not is_clocked and self._has_two_cores:
            for side, core in zip(names, (self._cores.measuring, self._cores.judge), strict=True):
                self._spawn(side, core)
            started = self._both(lambda side: self._nodes[side].first_answer(ask))
            self._account_frozen()
            return started
        started = {}
        for side in names:
            self._spawn(side, self._cores.measuring)
            started[side] = self._nodes[side].first_answer(ask)
            self._account_frozen()
        return started

    def by_turns(
        self, names: Sequence[str], asks: Sequence[Ask], stage: str
    ) -> dict[str, tuple[list[Answer], Exchanged]]:
        """Ask one after the other in this order, the caches overwritten before each. Raises NodeFailed."""
        done = {}
        for side in names:
            self._nodes[side].move(self._cores.measuring)
            self._scrubber.scrub()
            self._account_frozen()
            done[side] = self._nodes[side].call(asks, stage)
        self._account_frozen()
        return done

    def at_once(
        self, names: Sequence[str], asks: Sequence[Ask], stage: str
    ) -> dict[str, tuple[list[Answer], Exchanged]]:
        """Ask both, the second of `names` on the other core; by turns where there is none. Raises NodeFailed."""
        if not self._has_two_cores:
            return self.by_turns(names, asks, stage)
        for side, core in zip(names, (self._cores.measuring, self._cores.judge), strict=True):
            self._nodes[side].move(core)
        self._account_frozen()
        done = self._both(lambda side: self._nodes[side].call(asks, stage))
        self._account_frozen()
        return done

    @property
    def _has_two_cores(self) -> bool:
        return self._cores.measuring != self._cores.judge

    def _spawn(self, side: str, core: int) -> None:
        folder = self._folder / side
        self._nodes[side] = CanaryNode(side, self._code[side], folder, self._seats[side], self._setup, core)

    def _both(self, act: Callable[[str], T]) -> dict[str, T]:
        """What `act` gives for each side, at the same time. Raises NodeFailed, the partner's where both fail.

        What ends this, a signal say, ends both nodes, so that nothing waits for their answers.
        """
        with ThreadPoolExecutor(len(SIDES), thread_name_prefix="canary-node") as pool:
            acting = {side: pool.submit(act, side) for side in SIDES}
            try:
                wait(acting.values())
            except BaseException:
                for node in self._nodes.values():
                    node.kill()
                raise
        return {side: acting[side].result() for side in (PARTNER, CANDIDATE)}

    def _account_frozen(self) -> None:
        for side, node in self._nodes.items():
            self.cpu_while_frozen_ns[side] += node.take_cpu_while_frozen_ns()
