"""Log ratios of a document's raw samples, for the statistics. Whole numbers until the last step.

A *unit* is the k-th complete pair of every case, combined: the mean of their log ratios, that is the logarithm of
the geometric mean of the speed-ups, each capped. With one case a unit is a pair.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

from benchmarks.evidence.schema import SIDES
from benchmarks.statistics.controls import BaseTime
from benchmarks.statistics.median import standard_deviation
from benchmarks.statistics.units import PPB, floor_ppm, log_ppb, nats, pair_log_ppb

PPB_PER_PPM = 1000


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a document, in the order measured. Log ratios are ln(base / candidate) in billionths of a nat."""

    by_case: dict[str, tuple[int, ...]]  # complete measured pairs
    controls: tuple[int, ...]  # complete control pairs
    base_times: tuple[BaseTime, ...]  # of both
    complete: tuple[dict[str, Any], ...]  # the measured pairs themselves
    old: dict[str, tuple[int, ...]]  # complete pairs of base and the old tree, ln(base / old) by case

    def units(self, cap_ppb: int) -> list[float]:
        """One log ratio in nats per unit, each case's held at `cap_ppb` before they are combined."""
        rounds = zip(*self.by_case.values(), strict=False)
        return [nats(sum(min(value, cap_ppb) for value in unit) // len(unit)) for unit in rounds]

    @property
    def unit_count(self) -> int:
        """Number of complete units."""
        return min(map(len, self.by_case.values()))


def read_samples(document: dict[str, Any]) -> Samples:
    """The samples of a validated document. Interrupted pairs stay in the document and are left out here."""
    complete = {case["name"]: 2 * case["calls"] for case in document["suite"]["cases"]}
    by_case: dict[str, list[int]] = {name: [] for name in complete}
    old: dict[str, list[int]] = {name: [] for name in complete}
    controls: list[int] = []
    base_times: list[BaseTime] = []
    whole: list[dict[str, Any]] = []
    for pair in document["pairs"]:
        if len(pair["calls"]) != complete[pair["case"]]:
            continue
        value = pair_log_ppb(turns(pair["calls"]))
        if _tree(pair) == "old":
            old[pair["case"]].append(value)
            continue
        (controls if pair["control"] else by_case[pair["case"]]).append(value)
        base_times.append(_base_time(pair))
        if not pair["control"]:
            whole.append(pair)
    return Samples(
        {case: tuple(values) for case, values in by_case.items()},
        tuple(controls),
        tuple(base_times),
        tuple(whole),
        {case: tuple(values) for case, values in old.items()},
    )


def noise_floor_log_ppm(document: dict[str, Any]) -> int | None:
    """Standard deviation of a pair's log ratio where both sides run base, in millionths of a nat; None below two pairs.

    In an A/A run that is every pair.
    """
    samples = read_samples(document)
    is_aa = document["run"]["kind"] == "aa"
    measured = [value for values in samples.by_case.values() for value in values] if is_aa else []
    both_base = [nats(value) for value in (*samples.controls, *measured)]
    return floor_ppm(standard_deviation(both_base)) if len(both_base) > 1 else None


def _tree(pair: dict[str, Any]) -> str:
    """Whose tree ran on the candidate's side."""
    return str(pair.get("tree", "base" if pair["control"] else "candidate"))


def turns(calls: list[list[Any]]) -> list[tuple[int, int]]:
    """(base's, candidate's) value of each whole turn, in the suite's unit."""
    both = [dict([first, second]) for first, second in zip(calls[::2], calls[1::2], strict=False)]
    return [(turn["base"], turn["candidate"]) for turn in both]


def _base_time(pair: dict[str, Any]) -> BaseTime:
    """Base's median value, per unit of work where the pair tells its shape: shapes differ a little from pair to pair.

    Work is taken as the product of the shape's dimensions. In a control pair both sides are base.
    """
    times = sorted(ns for side, ns in pair["calls"] if side == SIDES[0] or pair["control"])
    half = len(times) // 2
    middle = Fraction(
        times[half] if len(times) % 2 else times[half - 1] + times[half], 1 + (len(times) % 2 == 0)
    )
    work = prod(size for size in pair.get("shape", {}).values() if size)
    return BaseTime(key=pair["case"], is_control=pair["control"], log_ns=log_ppb(middle / work) / PPB)


def frozen_cpu_limit_ns(pair: dict[str, Any]) -> int:
    """CPU time that a side may have used while frozen: 20 ms (two ticks of the clock that counts it) or 2 %."""
    return max(20_000_000, int(pair["timed_ns"]) // 50)


def thawed_side(document: dict[str, Any]) -> tuple[int, str] | None:
    """(pair's index, whose tree it ran) of the first side that ran while it was frozen, or None."""
    for pair in document["pairs"]:
        limit = frozen_cpu_limit_ns(pair)
        for side in SIDES:
            if pair["cpu_while_frozen_ns"][side] > limit:
                return pair["index"], _tree(pair) if side == "candidate" else side
    return None
