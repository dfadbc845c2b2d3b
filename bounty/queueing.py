"""Order in which waiting runs get a runner. Pure functions.

Runs of one series keep the sealed order of their submissions. Between series, and between people outside of them, the
next run is that of the person with the fewest runs now or in the recent past; each run that is placed counts at once,
so people take turns. A person who waits behind others of a series lends their turn to it: the series continues as if each run
before theirs were their own, so that no one can block a series by filling it.

The first run of a new account lets the people who already wait go first, with one run each and up to a limit.
"""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queued run. ``person`` is None for the platform's own A/A runs, which come after all others.

    ``series`` is what it is ordered in by ``sealed_at``; None for a run that is in no series. ``lent`` is the number of
    runs that its series has recently started before it, since it waits. ``lets_by`` is how many runs that already wait
    it still lets go first, one of each person; ``served`` are the people who had a turn since it waits.
    """

    run_id: UUID
    person: int | None
    queued_at: datetime
    series: Hashable = None
    sealed_at: datetime | None = None
    lent: int = 0
    lets_by: int = 0
    served: frozenset[int | None] = frozenset()

    @property
    def line(self) -> Hashable:
        """What it keeps its place in: its series, or its person's other runs."""
        return ("person", self.person) if self.series is None else ("series", self.series)

    @property
    def place(self) -> tuple[datetime, datetime, UUID]:
        """Its place in that line."""
        return self.sealed_at or self.queued_at, self.queued_at, self.run_id


@dataclass(slots=True)
class _Line:
    """Waiting runs in the order in which they start, and how much each has lent to those before it."""

    runs: list[Waiting]
    lent: list[int]

    @property
    def head(self) -> Waiting:
        return self.runs[0]

    def turn(self, had: Mapping[int | None, int]) -> tuple[bool, int, datetime, UUID]:
        """What decides whose turn it is: the smallest goes first."""
        turns = (
            (run.person is None, had.get(run.person, 0) + lent, run.queued_at, run.run_id)
            for number, (run, lent) in enumerate(zip(self.runs, self.lent, strict=True))
            if number == 0 or not run.lets_by
        )
        return min(turns)

    def start(self) -> Waiting:
        run = self.runs.pop(0)
        del self.lent[0]
        self.lent = [
            lent + (other.person != run.person) for other, lent in zip(self.runs, self.lent, strict=True)
        ]
        return run


@dataclass(slots=True)
class _Queue:
    lines: dict[Hashable, _Line]
    had: Counter[int | None]
    lets_by: dict[UUID, int] = field(default_factory=dict)
    served: set[int | None] = field(default_factory=set)

    def next_line(self) -> Hashable:
        """The line whose turn it is, after what the head of a new account still lets by."""
        by_turn = sorted(self.lines, key=lambda line: self.lines[line].turn(self.had))
        first = self.lines[by_turn[0]].head
        if not self.lets_by.get(first.run_id):
            return by_turn[0]
        for line in by_turn[1:]:
            head = self.lines[line].head
            if self._goes_before(head, first):
                self._let_by(head)
                return line
        return by_turn[0]

    def start(self, line: Hashable) -> Waiting:
        run = self.lines[line].start()
        self.had[run.person] += 1
        self.served.add(run.person)
        if not self.lines[line].runs:
            del self.lines[line]
        return run

    def _goes_before(self, run: Waiting, first: Waiting) -> bool:
        """Whether the first run of a new account lets this one go first: its person waits longer, and had no turn since."""
        is_known = run.person is not None and not run.lets_by
        had_a_turn = run.person in self.served or run.person in first.served
        return is_known and not had_a_turn and run.queued_at < first.queued_at

    def _let_by(self, run: Waiting) -> None:
        for line in self.lines.values():
            for other in line.runs:
                if other.queued_at > run.queued_at and self.lets_by.get(other.run_id):
                    self.lets_by[other.run_id] -= 1


def fair_order(waiting: Sequence[Waiting], load: Mapping[int | None, int]) -> list[UUID]:
    """All waiting runs in the order in which they would be started.

    ``load`` counts each person's recent runs. Ties go to the older run, then to the smaller id.
    """
    lines: dict[Hashable, _Line] = {}
    for run in sorted(waiting, key=lambda run: run.place):
        line = lines.setdefault(run.line, _Line([], []))
        line.runs.append(run)
        line.lent.append(run.lent)
    queue = _Queue(lines, Counter(dict(load)), {run.run_id: run.lets_by for run in waiting})
    order: list[UUID] = []
    while queue.lines:
        order.append(queue.start(queue.next_line()).run_id)
    return order


def let_by(waiting: Sequence[Waiting], load: Mapping[int | None, int], started: UUID) -> list[UUID]:
    """First runs of new accounts that have let ``started`` go first, although it was their turn."""
    of = next((run for run in waiting if run.run_id == started), None)
    if of is None or of.lets_by or not any(run.lets_by for run in waiting):
        return []
    strict = fair_order([replace(run, lets_by=0) for run in waiting], load)
    before = set(strict[: strict.index(started)])
    return [
        run.run_id for run in waiting if run.lets_by and run.run_id in before and run.queued_at > of.queued_at
    ]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated start and end of a run, in seconds from now; None if unknown."""

    starts_in_s: int | None
    ends_in_s: int | None


UNKNOWN = Estimate(None, None)


def estimate(
    *,
    ahead_s: Sequence[float | None],
    own_s: float | None,
    busy_s: Sequence[float | None],
    idle: int,
) -> Estimate:
    """Simulate the queue: each runner takes the next run as soon as it is free.

    ``ahead_s`` is how long each run before ours takes, in order, ``busy_s`` what the running ones still need. A
    runner whose run no one can tell the end of is not counted on.
    """
    free = [0.0] * idle + [math.inf if left is None else max(left, 0.0) for left in busy_s]
    if not free or any(span is None for span in ahead_s):
        return UNKNOWN
    heapq.heapify(free)
    for span in ahead_s:
        heapq.heapreplace(free, free[0] + (span or 0.0))
    starts = free[0]
    if math.isinf(starts):
        return UNKNOWN
    return Estimate(round(starts), None if own_s is None else round(starts + own_s))
