"""Log ratios of a document's raw samples, for the statistics. Whole numbers until the last step.

A *unit* is the k-th complete pair of every case, combined: the mean of their log ratios, that is the logarithm of
the geometric mean of the speed-ups, each capped. With one case a unit is a pair.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

from benchmarks.pairs.seats import ABOUT_BASE, SEATS, SIDES
from benchmarks.statistics.controls_2 import BaseTime
from benchmarks.statistics.median import standard_deviation
from benchmarks.statistics.units import PPB, floor_ppm, log_ppb, nats, pair_log_ppb

PPB_PER_PPM = 1000


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a document, in the order measured. Log ratios are ln(base / candidate) in billionths of a nat."""

    by_case: dict[str, tuple[int, ...]]  # complete measured pairs
    controls: tuple[int, ...]  # complete control pairs
    base_times: tuple[BaseTime, ...]  # of both, for the rule of schema 2
    complete: tuple[dict[str, Any], ...]  # the measured pairs themselves
    control_pairs: tuple[dict[str, Any], ...]  # and the control pairs
    old: dict[str, tuple[int, ...]]  # complete pairs of base and the old tree, ln(base / old) by case
    direct: dict[str, tuple[int, ...]]  # and of the old tree and the candidate, ln(old / candidate)
    earlier: dict[str, int]  # how many of `by_case` are from the earlier pairs that the document continues

    def units(self, cap_ppb: int) -> list[float]:
        """One log ratio in nats per unit, each case's held at `cap_ppb` before they are combined."""
        rounds = zip(*self.by_case.values(), strict=False)
        return [nats(sum(min(value, cap_ppb) for value in unit) // len(unit)) for unit in rounds]

    @property
    def unit_count(self) -> int:
        """Number of complete units."""
        return min(map(len, self.by_case.values()))

    @property
    def earlier_units(self) -> int:
        """How many of the units are wholly of earlier pairs."""
        return min(self.earlier.values())


def read_samples(document: dict[str, Any]) -> Samples:
    """The samples of a validated document, those that it continues first.

    Interrupted pairs stay in the document and are left out here.
    """
    cases = [case["name"] for case in document["suite"]["cases"]]
    by_case: dict[str, list[int]] = {name: [] for name in cases}
    about_base: dict[str, dict[str, list[int]]] = {kind: {name: [] for name in cases} for kind in ABOUT_BASE}
    earlier = dict.fromkeys(cases, 0)
    controls: list[int] = []
    base_times: list[BaseTime] = []
    whole: list[dict[str, Any]] = []
    whole_controls: list[dict[str, Any]] = []
    for pair, is_earlier in complete_pairs(document):
        value = pair_log_ppb(turns(pair["calls"]))
        if (kind := _kind(pair)) in about_base:
            about_base[kind][pair["case"]].append(value)
            continue
        (controls if pair["control"] else by_case[pair["case"]]).append(value)
        earlier[pair["case"]] += is_earlier and not pair["control"]
        base_times.append(_base_time(pair))
        (whole_controls if pair["control"] else whole).append(pair)
    return Samples(
        _frozen(by_case),
        tuple(controls),
        tuple(base_times),
        tuple(whole),
        tuple(whole_controls),
        _frozen(about_base["old"]),
        _frozen(about_base["direct"]),
        earlier,
    )


def _frozen(by_case: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {case: tuple(values) for case, values in by_case.items()}


def combined(by_case: dict[str, tuple[int, ...]]) -> list[int]:
    """Units of pairs about base: the k-th complete pair of every case, their mean, in billionths of a nat."""
    return [sum(values) // len(values) for values in zip(*by_case.values(), strict=False)]


def complete_pairs(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each pair whose calls were all made, and whether it is an earlier one that the document continues.

    Each attempt numbers its pairs from zero; here no two have the same number, as one sequence.
    """
    start, last, attempt = 0, -1, None
    for record in (sealed["document"] for sealed in document.get("continues", [])):
        if record["run"]["nonce"] != attempt:
            start, attempt = last + 1, record["run"]["nonce"]
        pair = _renumbered(record["pair"], start)
        last = max(last, pair["index"])
        yield pair, True
    calls = {case["name"]: case["calls"] for case in document["suite"]["cases"]}
    for pair in document["pairs"]:
        if is_complete(pair, calls[pair["case"]]):
            yield _renumbered(pair, last + 1), False


def _renumbered(pair: dict[str, Any], start: int) -> dict[str, Any]:
    """The pair as one of a longer sequence; the number of the pair next to a control pair moves with it."""
    if not start:
        return pair
    next_to = pair.get("next_to")
    return {**pair, "index": start + pair["index"], "next_to": None if next_to is None else start + next_to}


def is_complete(pair: dict[str, Any], calls: int) -> bool:
    """Whether all calls of both sides were made."""
    return len(pair["calls"]) == 2 * calls


def noise_floor_log_ppm(document: dict[str, Any]) -> int | None:
    """Standard deviation of a pair's log ratio where both sides run base, in millionths of a nat; None below two pairs.

    In an A/A run that is every pair.
    """
    samples = read_samples(document)
    is_aa = document["run"]["kind"] == "aa"
    measured = [value for values in samples.by_case.values() for value in values] if is_aa else []
    both_base = [nats(value) for value in (*samples.controls, *measured)]
    return floor_ppm(standard_deviation(both_base)) if len(both_base) > 1 else None


def _kind(pair: dict[str, Any]) -> str:
    """The kind of a pair, which says whose trees it ran; documents of schema 2 do not name it."""
    return str(pair.get("tree", "base" if pair["control"] else "candidate"))


def turns(calls: list[list[Any]]) -> list[tuple[int, int]]:
    """(base's, candidate's) value of each whole turn, in the suite's unit."""
    both = [dict([first, second]) for first, second in zip(calls[::2], calls[1::2], strict=False)]
    return [(turn["base"], turn["candidate"]) for turn in both]


def _base_time(pair: dict[str, Any]) -> BaseTime:
    """Base's median value, per unit of work where the pair tells its shape: shapes differ a little from pair to pair.

    Work is taken as the product of the shape's dimensions. In a control pair both sides are base.
    """
    middle = _middle([ns for side, ns in pair["calls"] if side == SIDES[0] or pair["control"]])
    work = prod(size for size in pair.get("shape", {}).values() if size)
    return BaseTime(key=pair["case"], is_control=pair["control"], log_ns=log_ppb(middle / work) / PPB)


def middle_value(pair: dict[str, Any], side: str) -> Fraction:
    """The median of one side's values of a complete pair, exactly."""
    return _middle([value for name, value in pair["calls"] if name == side])


def _middle(values: list[int]) -> Fraction:
    ordered, half = sorted(values), len(values) // 2
    return Fraction(
        ordered[half] if len(ordered) % 2 else ordered[half - 1] + ordered[half], 2 - len(ordered) % 2
    )


def frozen_cpu_limit_ns(pair: dict[str, Any]) -> int:
    """CPU time that a side may have used while frozen: 20 ms (two ticks of the clock that counts it) or 2 %."""
    return max(20_000_000, int(pair["timed_ns"]) // 50)


def thawed_side(document: dict[str, Any]) -> tuple[int, str] | None:
    """(pair's index, whose tree it ran) of the first side that ran while it was frozen, or None."""
    for pair in document["pairs"]:
        if (tree := thawed_tree(pair)) is not None:
            return pair["index"], tree
    return None


def thawed_tree(pair: dict[str, Any]) -> str | None:
    """Whose tree ran while it was frozen, or None."""
    limit = frozen_cpu_limit_ns(pair)
    for side in SIDES:
        if pair["cpu_while_frozen_ns"][side] > limit:
            return SEATS[_kind(pair)][side]
    return None
