"""Which lines of a bill a suite measures, whole or in part: a gain of the suite makes these lines cheaper, by its log at most.

The catalogue states them. A suite that states none, such as those of training, loading, quality and bugs, measures none.
Then its gains earn their award and no royalty.
"""

from dataclasses import dataclass

from benchmarks.catalogue import SUITES


@dataclass(frozen=True, slots=True)
class Measures:
    """Lines that a suite measures: the time or memory of the whole line, or of a part of its work, such as one layer's."""

    whole: frozenset[str] = frozenset()
    part: frozenset[str] = frozenset()


def measures(suite: str) -> Measures:
    """What the suite measures; nothing also for a suite that is no longer known."""
    info = SUITES.get(suite)
    return Measures() if info is None else Measures(frozenset(info.lines), frozenset(info.parts))
