"""The live rate of false awards: how often a runner found a gain where base and candidate are the same tree.

A/A runs take the gate's own decision. A real award needs a confirmation and guard rails too, so this rate is an upper
limit of false awards. Runs of the platform's own failures have no noise sample and do not count.
"""

from dataclasses import dataclass

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.power.intervals import binomial_upper
from benchmarks.statistics.units import PPM
from bounty.models import NoiseSample

CONFIDENCE_PERCENT = 95


@dataclass(frozen=True, slots=True)
class FalseAwards:
    """A/A runs of all runners, those that passed the gate, and the one-sided upper bound of their rate, in millionths."""

    runs: int
    passed: int
    rate_ppm: int | None
    upper_bound_ppm: int
    confidence_percent: int = CONFIDENCE_PERCENT


def false_awards() -> FalseAwards:
    """The rate over all A/A runs so far; the bound of no runs is one."""
    runs = NoiseSample.objects.count()
    passed = NoiseSample.objects.filter(verdict_kind=VerdictKind.GAIN.value).count()
    if not runs:
        return FalseAwards(0, 0, None, PPM)
    upper = min(PPM, -int(-binomial_upper(passed, runs) * PPM // 1))
    return FalseAwards(runs, passed, passed * PPM // runs, upper)
