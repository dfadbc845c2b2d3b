"""What control pairs say about a gain by the rule of schema 2. Changed no more; `partner` has today's."""

from typing import Any

from benchmarks.evidence.samples import Samples
from benchmarks.statistics.controls_2 import control_check
from benchmarks.statistics.units import floor_ppm, signed_percent

UNITS_PER_CONTROL = 12
SURE_COMPARISONS = 3  # fewer may look bad by chance: more were taken before a patch was suspected


def controls_needed(units: int) -> int:
    """Control pairs that a gain over `units` units needs: one for every twelve begun."""
    return -(-units // UNITS_PER_CONTROL)


def has_enough(document: dict[str, Any], samples: Samples, units: int) -> bool:
    """Say whether there are as many control pairs as a gain needs."""
    return len(samples.controls) >= controls_needed(units)


def counted(document: dict[str, Any], samples: Samples, units: int) -> str:
    """How many there are, for verification."""
    return f"{len(samples.controls)} control pairs, {controls_needed(units)} needed"


def lacks_controls(document: dict[str, Any], samples: Samples, units: int) -> bool:
    """Say whether a gain needs more control pairs: there are too few, or too few to believe what they seem to show."""
    if not has_enough(document, samples, units):
        return True
    control = control_check(samples.base_times)
    return control.is_suspicious and control.comparisons < SURE_COMPARISONS


def doubt(document: dict[str, Any], samples: Samples) -> str | None:
    """The reason of a suspicion, or None."""
    control = control_check(samples.base_times)
    if not control.is_suspicious:
        return None
    return (
        "Base was slower when paired with the patch than when paired with itself: "
        f"{signed_percent(-floor_ppm(control.slowdown_log))} ({control.comparisons} control pairs). The patch may slow the "
        "other process down. A maintainer will check the run."
    )


def cut_log_ppm(document: dict[str, Any], samples: Samples) -> int:
    """Nothing was cut from a price."""
    return 0


def said(document: dict[str, Any], samples: Samples, bound_log_ppm: int) -> str:
    """Nothing was said of it."""
    return ""
