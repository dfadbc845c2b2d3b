"""Is an answer right? Compares one call's answers with each other and with the oracle. Pure arithmetic on arrays."""

from dataclasses import dataclass

import numpy as np

from benchmarks.suites.base import Array, Problem, Tensors, Tolerance

PPB = 1_000_000_000
PPM = 1_000_000


@dataclass(frozen=True)
class Distance:
    """How far an answer is from another one, relative to the other's root mean square, in parts per billion."""

    rms_ppb: int
    peak_ppb: int


@dataclass(frozen=True)
class WrongAnswer:
    """`side` ("base" or "candidate") answered wrongly; `detail` says by how much and what is allowed."""

    side: str
    detail: str


def distance(answer: Array, other: Array) -> Distance:
    """Of finite arrays of one shape. A zero `other` is compared absolutely."""
    difference = answer.astype(np.float64) - other.astype(np.float64)
    scale = float(np.sqrt(np.mean(np.square(other, dtype=np.float64)))) or 1.0
    rms = float(np.sqrt(np.mean(np.square(difference)))) / scale
    peak = float(np.max(np.abs(difference), initial=0.0)) / scale
    return Distance(_ppb(rms), _ppb(peak))


def _ppb(value: float) -> int:
    return int(min(value, 1e6) * PPB)  # values above a million times the right answer are all equally wrong


def percent(ppb: int) -> str:
    """A part of the right answer's size, for people: two significant digits."""
    return f"{ppb / 1e7:.2g} %"


def compare_pair(
    base: Array, candidate: Array, problem: Problem, inputs: Tensors, tolerance: Tolerance
) -> WrongAnswer | None:
    """Candidate's answer against base's to the same input; the oracle is asked only who of the two is wrong."""
    for side, answer in (("base", base), ("candidate", candidate)):
        if not np.isfinite(answer).all():
            bad = int(answer.size - np.isfinite(answer).sum())
            return WrongAnswer(side, f"{bad} of {answer.size} values are not finite numbers")
    apart = distance(candidate, base)
    if apart.rms_ppb <= tolerance.rms_ppb and apart.peak_ppb <= tolerance.peak_ppb:
        return None
    exact = problem.exact(inputs)
    base_off, candidate_off = distance(base, exact), distance(candidate, exact)
    side = "base" if base_off.rms_ppb > candidate_off.rms_ppb else "candidate"
    return WrongAnswer(
        side,
        f"candidate and base differ by {percent(apart.rms_ppb)} rms and {percent(apart.peak_ppb)} at the worst "
        f"element (allowed {percent(tolerance.rms_ppb)} and {percent(tolerance.peak_ppb)}); from the exact answer "
        f"base is off by {percent(base_off.rms_ppb)} rms, candidate by {percent(candidate_off.rms_ppb)}",
    )


def compare_oracle(
    base: Array, candidate: Array, problem: Problem, inputs: Tensors, tolerance: Tolerance
) -> WrongAnswer | None:
    """Both answers against the exact one: candidate's error against base's, both against a plain implementation's."""
    exact = problem.exact(inputs)
    plain = distance(problem.plain(inputs), exact).rms_ppb
    base_off, candidate_off = distance(base, exact).rms_ppb, distance(candidate, exact).rms_ppb
    most = plain * tolerance.drift_ratio_ppm // PPM
    if base_off > most:
        return WrongAnswer(
            "base", f"base is off the exact answer by {percent(base_off)} rms, allowed {percent(most)}"
        )
    allowed = min(max(base_off, plain) * tolerance.error_ratio_ppm // PPM, most)
    if candidate_off > allowed:
        return WrongAnswer(
            "candidate",
            f"candidate is off the exact answer by {percent(candidate_off)} rms, base by {percent(base_off)}; "
            f"allowed {percent(allowed)}. Less exact numerics belong to the quality route",
        )
    return None
