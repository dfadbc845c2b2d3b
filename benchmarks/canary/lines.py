"""Statistics of a canary: each pair's log ratio of every line, its bounds, and what counts as worse. Pure.

A lower bound says what is certainly saved, and prices rest on it. An upper bound below a tolerance says that the
candidate is certainly worse by more than that, and refuses it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from benchmarks.canary.order import DECODE, LOAD, MEMORY, PREFILL, ROUNDS
from benchmarks.canary.results import BatchTime, LineResult, PrefillTime
from benchmarks.statistics.confirm import LEAST_PAIRS, bound_rank, confirmation_bound
from benchmarks.statistics.median import median
from benchmarks.statistics.serial import serial_correlation
from benchmarks.statistics.units import floor_ppm, log_ppb, nats

CANDIDATE, PARTNER = "candidate", "partner"
#: How much worse a line may be at most, in millionths of a nat: 2 %, of the lines that a process alone decides 5 %.
TOLERANCE_PPM = {PREFILL: 20_000, DECODE: 20_000, LOAD: 50_000, MEMORY: 50_000}
LENGTHS_APART = 2  # prompts whose lengths differ by less say nothing of what one more token takes
ROUND_FIELDS = ("load_ns", "peak_memory_bytes")


@dataclass(frozen=True, slots=True)
class Bounds:
    """A line's result, and the upper bound that the lower one is the mirror of."""

    result: LineResult
    upper_log_ppm: int


def bounds_of(ratios_ppb: Sequence[int]) -> Bounds:
    """One-sided 95 % bounds of the median log ratio, in the order measured. Raises ValueError for fewer than 5 values."""
    ratios = [nats(value) for value in ratios_ppb]
    mirrored = [-value for value in ratios]
    lower, middle = _lower(ratios)
    return Bounds(LineResult(lower, middle, len(ratios)), -_lower(mirrored)[0])


def _lower(ratios: Sequence[float]) -> tuple[int, int]:
    """Bound and median, rounded down."""
    if len(ratios) >= LEAST_PAIRS:
        result = confirmation_bound(ratios)
        return result.bound_log_ppm, result.estimate_log_ppm
    ordered = sorted(ratios)
    rank = bound_rank(len(ratios), serial_correlation(ratios))
    return floor_ppm(ordered[rank - 1]), floor_ppm(median(ordered))


def saved_ppb(partner: int, candidate: int) -> int:
    """ln(partner / candidate) in billionths of a nat: above zero for a candidate that takes less."""
    return log_ppb(Fraction(partner, candidate))


def timed_calls(comparison: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The clocked calls in the order of their pairs."""
    for one in comparison["rounds"]:
        yield from (call for call in one["calls"] if call["pair"] is not None)


def pair_ratios(comparison: dict[str, Any], batches: Sequence[int]) -> dict[str, dict[int, list[int]]]:
    """Log ratios by line and batch, one for each whole pair in the order measured; prefill's batch is 1."""
    found: dict[int, dict[tuple[str, int], int]] = defaultdict(dict)
    for call in timed_calls(comparison):
        ratio = saved_ppb(call["ns"][PARTNER], call["ns"][CANDIDATE])
        found[call["pair"]][call["case"], call["batch"]] = ratio
    wanted = [(PREFILL, 1), *((DECODE, batch) for batch in batches)]
    lines: dict[str, dict[int, list[int]]] = {PREFILL: {1: []}, DECODE: {batch: [] for batch in batches}}
    for pair in sorted(found):
        if all(one in found[pair] for one in wanted):
            for case, batch in wanted:
                lines[case][batch].append(found[pair][case, batch])
    return lines


def round_ratios(comparison: dict[str, Any], field: str) -> list[int]:
    """Log ratios of what each clocked round has one value of, whole rounds only."""
    return [
        saved_ppb(one[field][PARTNER], one[field][CANDIDATE])
        for one in comparison["rounds"]
        if one["number"] and all(one[name][side] for name in ROUND_FIELDS for side in (CANDIDATE, PARTNER))
    ]


def line_bounds(comparison: dict[str, Any], batches: Sequence[int]) -> dict[str, Bounds]:
    """Bounds by the name that a reason calls them: the four lines, and decode at each batch.

    Decode of a pair is the mean of its batches' logs. Raises ValueError for too few values.
    """
    ratios = pair_ratios(comparison, batches)
    decode = ratios[DECODE]
    mean = [sum(values) // len(values) for values in zip(*decode.values(), strict=True)]
    return {
        PREFILL: bounds_of(ratios[PREFILL][1]),
        DECODE: bounds_of(mean),
        **{f"{DECODE} at {batch} at once": bounds_of(values) for batch, values in decode.items()},
        MEMORY: bounds_of(round_ratios(comparison, "peak_memory_bytes")),
        LOAD: bounds_of(round_ratios(comparison, "load_ns")),
    }


def whole_pairs(comparison: dict[str, Any], batches: Sequence[int]) -> int:
    """How many pairs have all their calls."""
    return len(pair_ratios(comparison, batches)[PREFILL][1])


def looks(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparison of each look by itself: the first one has the round that is not clocked, and `ROUNDS` more."""
    rounds = comparison["rounds"]
    parts = (rounds[: ROUNDS + 1], rounds[ROUNDS + 1 :])
    return [{**comparison, "rounds": part} for part in parts if part]


def worse_lines(comparison: dict[str, Any], batches: Sequence[int]) -> dict[str, Bounds]:
    """The lines that are certainly worse than they may be in each look, with the bounds of the last one.

    A line of an equal tree is above its tolerance by chance in 1 of 20 looks at most, however much its times scatter.
    """
    found: dict[str, Bounds] | None = None
    for look in looks(comparison):
        bounds = line_bounds(look, batches)
        found = {
            name: bounds[name]
            for name in (bounds if found is None else found)
            if _is_worse(name, bounds[name])
        }
    return found or {}


def _is_worse(name: str, line: Bounds) -> bool:
    return line.upper_log_ppm < -_tolerance_ppm(name)


def _tolerance_ppm(name: str) -> int:
    return TOLERANCE_PPM[name.split()[0]]


def worse_words(name: str, line: Bounds) -> str:
    """How much worse the line is, in words."""
    what = {MEMORY: "more memory", LOAD: "longer to load"}.get(name, "more time")
    return (
        f"{name}: it takes {what}, {_percent(-line.result.estimate_log_ppm)} by the median of "
        f"{line.result.pairs} pairs and at least {_percent(-line.upper_log_ppm)} with 95 % confidence; "
        f"{_percent(_tolerance_ppm(name))} is allowed"
    )


def _percent(ppm: int) -> str:
    """Millionths of a nat as a percentage with one digit."""
    return f"{ppm // 10_000}.{ppm % 10_000 // 1_000} %"


def batch_times(comparison: dict[str, Any], batches: Sequence[int]) -> tuple[BatchTime, ...]:
    """Median nanoseconds per token of an answer at each batch."""
    return tuple(
        BatchTime(batch, *(_token_ns(comparison, batch, side) for side in (CANDIDATE, PARTNER)))
        for batch in batches
    )


def _token_ns(comparison: dict[str, Any], batch: int, side: str) -> int:
    times: list[int] = sorted(
        call["ns"][side] // call["output_tokens"]
        for call in timed_calls(comparison)
        if (call["case"], call["batch"]) == (DECODE, batch)
    )
    return times[len(times) // 2]


def prefill_times(comparison: dict[str, Any]) -> tuple[PrefillTime, ...]:
    """Median time of the shorter half of the clocked prompts and of the longer one, of all where these differ little."""
    calls = [call for call in timed_calls(comparison) if call["case"] == PREFILL]
    calls.sort(key=lambda call: int(call["prompt_tokens"]))
    shorter, longer = _prefill_time(calls[: len(calls) // 2]), _prefill_time(calls[len(calls) // 2 :])
    if longer.prompt_tokens < LENGTHS_APART * shorter.prompt_tokens:
        return (_prefill_time(calls),)
    return shorter, longer


def _prefill_time(calls: Sequence[dict[str, Any]]) -> PrefillTime:
    sides = (sorted(call["ns"][side] for call in calls) for side in (CANDIDATE, PARTNER))
    return PrefillTime(calls[len(calls) // 2]["prompt_tokens"], *(times[len(times) // 2] for times in sides))
