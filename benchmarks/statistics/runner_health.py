"""Health of a runner: rules over its A/A runs and its failed attempts. Pure; no runner and no clock.

An A/A run measures one tree against itself, so everything that it finds is the runner's own. One run is compared with
the runner's own earlier ones: what is normal noise differs between machines, suites and sizes.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.units import signed_percent

SURE_COMPARISONS = 3  # fewer control comparisons may look bad by chance
FLOOR_EFFECTS = 3  # noise below this many of the suite's minimum effects is never too much


@dataclass(frozen=True, slots=True)
class NoiseFigures:
    """Figures of one A/A run, in millionths of a nat. `slowdown` and its threshold are None without control pairs."""

    verdict: VerdictKind
    pairs: int
    noise_log_ppm: int
    median_log_ppm: int
    slowdown_log_ppm: int | None = None
    slowdown_limit_log_ppm: int | None = None
    comparisons: int = 0


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Limits at which a runner is quarantined and released."""

    noise_factor: int = 3  # times the median of its own earlier runs
    least_history: int = 5  # good earlier runs before noise is compared with them
    history: int = 20  # so many of the newest ones
    failures_in_a_row: int = 3  # of so many different runs: one patch alone cannot put a runner out of work
    good_in_a_row: int = 3  # A/A runs, before a runner comes back by itself


LIMITS = HealthLimits()


def noise_floor_log_ppm(minimum_effect_log_ppm: int) -> int:
    """The noise of one pair that a suite can live with, whatever the runner's history: its looks average it out."""
    return FLOOR_EFFECTS * minimum_effect_log_ppm


def noise_limit_log_ppm(
    earlier: Sequence[int], *, floor_log_ppm: int, limits: HealthLimits = LIMITS
) -> int | None:
    """The most noise that is believed; None while too little is known of this runner. `earlier` is oldest first."""
    recent = earlier[-limits.history :]
    if len(recent) < limits.least_history:
        return None
    return max(round(limits.noise_factor * median(recent)), floor_log_ppm)


def fault_of(figures: NoiseFigures, *, limit_log_ppm: int | None) -> str:
    """Fault of the runner that measured this, in words; empty where there is none."""
    if figures.verdict in (VerdictKind.GAIN, VerdictKind.REGRESSION):
        return (
            f"a tree was judged a {figures.verdict.value} against itself: median "
            f"{signed_percent(figures.median_log_ppm)} over {figures.pairs} pairs"
        )
    if figures.verdict is not VerdictKind.NO_GAIN:
        return f"a tree measured against itself ended as {figures.verdict.value}"
    if limit_log_ppm is not None and figures.noise_log_ppm > limit_log_ppm:
        return (
            f"its noise is {_per_cent(figures.noise_log_ppm)} a pair, more than the {_per_cent(limit_log_ppm)} "
            "that its own history allows"
        )
    slowdown, threshold = figures.slowdown_log_ppm, figures.slowdown_limit_log_ppm
    if slowdown is None or threshold is None or figures.comparisons < SURE_COMPARISONS:
        return ""
    if slowdown > threshold:
        return (
            f"a tree is slower next to its own copy in one place than in another: {signed_percent(-slowdown)}"
        )
    return ""


def failed_too_often(failed_runs: Sequence[Hashable], limits: HealthLimits = LIMITS) -> bool:
    """True if too many runs failed since the last finished one, each counted once."""
    return len(set(failed_runs)) >= limits.failures_in_a_row


def may_come_back(good: Sequence[bool], limits: HealthLimits = LIMITS) -> bool:
    """True if the A/A runs since the quarantine, oldest first, end in enough good ones."""
    newest = good[-limits.good_in_a_row :]
    return len(newest) == limits.good_in_a_row and all(newest)


def _per_cent(log_ppm: int) -> str:
    """A spread in millionths of a nat as per cent: at these sizes the two differ by less than a tenth of it."""
    return f"{log_ppm // 10_000}.{log_ppm // 1000 % 10} %"
