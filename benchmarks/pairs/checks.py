"""Comparison of one call's answers with each other and with the oracle. Pure arithmetic on arrays."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.suites.base import Array, Problem, Tensors, Tolerance

PPB = 1_000_000_000
PPM = 1_000_000

ToleranceOf = Callable[[str], Tolerance]  # by the name of an output


@dataclass(frozen=True)
class Distance:
    """Distance of an answer from another one, relative to the other's root mean square, in parts per billion."""

    rms_ppb: int
    peak_ppb: int


@dataclass(frozen=True)
class WrongAnswer:
    """`side` ("base" or "candidate") answered wrongly; `detail` says by how much and what is allowed."""

    side: str
    detail: str


def distance(answer: Array, other: Array) -> Distance:
    """Distance of finite arrays of one shape. A zero `other` is compared absolutely."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is beyond all measure
        difference = answer.astype(np.float64) - other.astype(np.float64)
        scale = float(np.sqrt(np.mean(np.square(other, dtype=np.float64)))) or 1.0
        rms = float(np.sqrt(np.mean(np.square(difference)))) / scale
        peak = float(np.max(np.abs(difference), initial=0.0)) / scale
    return Distance(_ppb(rms), _ppb(peak))


def _ppb(value: float) -> int:
    """Values above a million times the right answer are all equally wrong, as are those whose squares overflow."""
    return int(value * PPB) if value < 1e6 else PPM * PPB


def percent(ppb: int) -> str:
    """A part of the right answer's size, for people: two significant digits."""
    return f"{ppb / 1e7:.2g} %"


def not_finite(answer: Array) -> str | None:
    """Describe an answer with non-finite numbers; None where all are finite."""
    finite = np.isfinite(answer)
    if finite.all():
        return None
    return f"{answer.size - int(finite.sum())} of {answer.size} values are not finite numbers"


def are_equal(base: Tensors, candidate: Tensors) -> bool:
    """True if both answered the same to the bit: then the patch has not changed the numerics."""
    return all(answer.tobytes() == candidate[name].tobytes() for name, answer in base.items())


def compare_pair(
    base: Tensors,
    candidate: Tensors,
    problem: Problem,
    inputs: Tensors,
    turn: int,
    tolerance_of: ToleranceOf,
) -> WrongAnswer | None:
    """Candidate's answers against base's to the same inputs; the oracle is asked only who of the two is wrong."""
    for side, answers in (("base", base), ("candidate", candidate)):
        for name, answer in answers.items():
            if detail := not_finite(answer):
                return WrongAnswer(side, f"{name}: {detail}")
    for name in base:
        tolerance = tolerance_of(name)
        apart = distance(candidate[name], base[name])
        if apart.rms_ppb > tolerance.rms_ppb or apart.peak_ppb > tolerance.peak_ppb:
            exact = problem.exact(inputs, turn)[name]
            return _who_is_wrong(name, base[name], candidate[name], exact, apart, tolerance)
    return None


def _who_is_wrong(
    name: str, base: Array, candidate: Array, exact: Array, apart: Distance, tolerance: Tolerance
) -> WrongAnswer:
    base_off, candidate_off = distance(base, exact), distance(candidate, exact)
    return WrongAnswer(
        "base" if base_off.rms_ppb > candidate_off.rms_ppb else "candidate",
        f"{name}: candidate and base differ by {percent(apart.rms_ppb)} rms and {percent(apart.peak_ppb)} at the worst "
        f"element (allowed {percent(tolerance.rms_ppb)} and {percent(tolerance.peak_ppb)}); from the exact answer "
        f"base is off by {percent(base_off.rms_ppb)} rms, candidate by {percent(candidate_off.rms_ppb)}",
    )


def compare_oracle(
    base: Tensors,
    candidate: Tensors,
    problem: Problem,
    inputs: Tensors,
    turn: int,
    tolerance_of: ToleranceOf,
) -> WrongAnswer | None:
    """Both answers against the exact ones: candidate's error against base's, both against a plain implementation's."""
    exact, plain = problem.exact(inputs, turn), problem.plain(inputs, turn)
    for name in base:
        wrong = _against_exact(
            name, base[name], candidate[name], exact[name], plain[name], tolerance_of(name)
        )
        if wrong is not None:
            return wrong
    return None


def _against_exact(
    name: str, base: Array, candidate: Array, exact: Array, plain: Array, tolerance: Tolerance
) -> WrongAnswer | None:
    plain_off = distance(plain, exact).rms_ppb
    base_off, candidate_off = distance(base, exact).rms_ppb, distance(candidate, exact).rms_ppb
    most = plain_off * tolerance.drift_ratio_ppm // PPM
    if base_off > most:
        return WrongAnswer(
            "base",
            f"{name}: base is off the exact answer by {percent(base_off)} rms, allowed {percent(most)}",
        )
    allowed = min(max(base_off, plain_off) * tolerance.error_ratio_ppm // PPM, most)
    if candidate_off > allowed:
        return WrongAnswer(
            "candidate",
            f"{name}: candidate is off the exact answer by {percent(candidate_off)} rms, base by {percent(base_off)}; "
            f"allowed {percent(allowed)}. Keep the precision of base, or send the patch to a bounty on suite `quality`",
        )
    return None
