"""One call of one side with everything else kept still. Both ways of measuring a pair go through here."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.pairs.cores import CacheScrubber
from benchmarks.pairs.pace import Pace, rest
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seats import SIDES
from benchmarks.pairs.side import Side
from benchmarks.suites.base import Exchange, Tensors


def _zeros() -> dict[str, int]:
    return dict.fromkeys(SIDES, 0)


@dataclass
class PairRecord:
    """Measurements of one pair. `calls` are (side, value in the suite's unit) in the order made, one of each side by turns."""

    plan: PairPlan
    spawn_order: tuple[str, str]
    calls: list[tuple[str, int]] = field(default_factory=list)
    first_ns: dict[str, int] = field(default_factory=dict)  # of each side's first call; not in the evidence
    scrubbed_bytes: int = 0  # overwritten before each call
    timed_ns: int = 0  # of all timed calls of both sides
    cpu_while_frozen_ns: dict[str, int] = field(default_factory=_zeros)
    transport_ns: int = 0
    load_ns: dict[str, int] = field(default_factory=_zeros)
    peak_memory_bytes: dict[str, int] = field(default_factory=_zeros)
    outputs_checked: int = 0
    oracle_checked: int = 0
    outputs_differing: int = 0  # answers of both sides that were not equal to the bit

    def as_dict(self) -> dict[str, Any]:
        """The record as it is in the evidence."""
        return {
            "index": self.plan.index,
            "control": self.plan.is_control,
            "tree": self.plan.tree,
            "next_to": self.plan.next_to,
            "case": self.plan.case,
            "shape": dict(self.plan.shape),
            "spawn_order": list(self.spawn_order),
            "calls": [[side, value] for side, value in self.calls],
            "scrubbed_bytes": self.scrubbed_bytes,
            "timed_ns": self.timed_ns,
            "cpu_while_frozen_ns": dict(self.cpu_while_frozen_ns),
            "transport_ns": self.transport_ns,
            "load_ns": dict(self.load_ns),
            "peak_memory_bytes": dict(self.peak_memory_bytes),
        }


class Clocked:
    """The two loaded sides of a pair, frozen except for the one that is called."""

    def __init__(
        self,
        sides: Mapping[str, Side],
        record: PairRecord,
        scrubber: CacheScrubber,
        phases: Phases,
        quiet: Quiet,
        after_call: Callable[[], None],
        pace: Pace | None = None,
    ) -> None:
        self.sides, self.record = dict(sides), record
        self._scrubber, self._phases, self._quiet, self._after_call = scrubber, phases, quiet, after_call
        self._pace = pace

    def call(self, name: str, exchanges: Sequence[Exchange], *, is_timed: bool) -> tuple[Tensors, int]:
        """The answers of side `name` and the nanoseconds it took. Raises SideFailed.

        Returns at the end of the call's slot, with both sides frozen: see `pace`.
        """
        with self._phases.spend("measuring"):
            gc.disable()
            try:
                self._scrubber.scrub()
                self._account_frozen()
                with self._quiet.measuring():
                    answers, elapsed_ns = self.sides[name].call(exchanges)
            finally:
                gc.enable()
        self._after_call()
        if is_timed:
            self.record.timed_ns += elapsed_ns
        is_first = name not in self.record.first_ns
        self.record.first_ns.setdefault(name, elapsed_ns)
        self._fill_slot(elapsed_ns, is_timed=is_timed, is_first=is_first)
        return answers, elapsed_ns

    def _fill_slot(self, elapsed_ns: int, *, is_timed: bool, is_first: bool) -> None:
        """Rest for what is left of the slot. Freezing and accounting come on top, for every partner alike."""
        if self._pace is None:
            return
        with self._phases.spend("measuring"):
            rest(self._pace.filled_ns(elapsed_ns, is_timed=is_timed, is_first=is_first) - elapsed_ns)

    def _account_frozen(self) -> None:
        for name, side in self.sides.items():
            self.record.cpu_while_frozen_ns[name] += side.take_cpu_while_frozen_ns()
