"""What control pairs say about a gain: how much of it base lost by being paired with the patch, or in its seat.

The rule is `benchmarks.statistics.controls`; here a document's pairs become its differences, and its answer words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from benchmarks.evidence.samples import PPB_PER_PPM, Samples, middle_value
from benchmarks.statistics.controls import (
    LEAST_COMPARISONS,
    TARGET_LOG_PPB,
    Difference,
    next_controls,
    seat,
    slowdown,
)
from benchmarks.statistics.units import log_ppb, signed_percent

UNITS_PER_CONTROL = 12
SURE_COMPARISONS = 3  # fewer may look bad by chance: more are taken before a patch is suspected


@dataclass(frozen=True, slots=True)
class Partner:
    """What base lost by being paired with the patch, and in its own seat, over all control pairs."""

    slowdown: Difference
    seat: Difference

    @property
    def cut_log_ppm(self) -> int:
        """What the price is cut by, rounded up."""
        return -(-(self.slowdown.cut_ppb + self.seat.cut_ppb) // PPB_PER_PPM)


def partner(samples: Samples) -> Partner:
    """Both differences of a document's samples."""
    return Partner(slowdown(list(_slowdowns(samples))), seat(samples.controls))


def _slowdowns(samples: Samples) -> Iterator[int]:
    """ln(base paired with the candidate / base paired with itself) of each control pair and the measured pair next to it.

    A measured pair is compared once, and only with a control pair of the same case and shape.
    """
    measured = {pair["index"]: pair for pair in samples.complete}
    for control in samples.control_pairs:
        pair = measured.pop(control["next_to"], None)
        if pair is not None and _kind(pair) == _kind(control):
            yield log_ppb(Fraction(middle_value(pair, "base"), middle_value(control, "base")))


def _kind(pair: dict[str, Any]) -> tuple[Any, Any]:
    return pair["case"], pair.get("shape")


def controls_needed(document: dict[str, Any], units: int) -> int:
    """Comparisons that a gain needs: a fixed number in a confirmation, one for every twelve units begun in a gate."""
    return LEAST_COMPARISONS if document["run"]["kind"] == "confirmation" else -(-units // UNITS_PER_CONTROL)


def has_enough(document: dict[str, Any], samples: Samples, units: int) -> bool:
    """Say whether there are as many comparisons as a gain needs."""
    return partner(samples).slowdown.comparisons >= controls_needed(document, units)


def counted(document: dict[str, Any], samples: Samples, units: int) -> str:
    """How many there are and what they would have found, for verification."""
    found = partner(samples).slowdown
    seen = (
        "too few to say what slow-down of base they would find"
        if found.found_ppb is None
        else f"a slow-down of base by {_percent(found.found_ppb)} would be found with 95 %"
    )
    return f"{found.comparisons} control pairs compared, {controls_needed(document, units)} needed; {seen}"


def lacks_controls(document: dict[str, Any], samples: Samples, units: int) -> bool:
    """Say whether a gain needs more control pairs: there are too few, or too few to believe what they seem to show."""
    if not has_enough(document, samples, units):
        return True
    found = partner(samples)
    return any(
        each.is_suspicious and each.comparisons < SURE_COMPARISONS for each in (found.slowdown, found.seat)
    )


def wanted_controls(document: dict[str, Any], samples: Samples, blocks_left: int) -> int:
    """Control pairs in the next block of a confirmation that has `blocks_left` blocks of measured pairs to go."""
    return next_controls(partner(samples).slowdown, blocks_left)


def doubt(document: dict[str, Any], samples: Samples) -> str | None:
    """The reason of a suspicion, or None."""
    found = partner(samples)
    if found.slowdown.is_suspicious:
        return (
            "Base was slower when paired with the patch than when paired with itself: "
            f"{_percent(found.slowdown.estimate_ppb)} ({found.slowdown.comparisons} control pairs). The patch may slow the "
            "other process down. A maintainer will check the run."
        )
    if found.seat.is_suspicious:
        return (
            "Base was slower in base's seat than in the patch's seat, with base in both: "
            f"{_percent(found.seat.estimate_ppb)} ({found.seat.comparisons} control pairs). The base tree may recognise its "
            "seat. A maintainer will check the base tree."
        )
    return None


def cut_log_ppm(document: dict[str, Any], samples: Samples) -> int:
    """What the price is cut by."""
    return partner(samples).cut_log_ppm


def said(document: dict[str, Any], samples: Samples, bound_log_ppm: int) -> str:
    """Sentences about the cut of a price whose bound was `bound_log_ppm`, and about what could not have been found."""
    found = partner(samples)
    sentences = ""
    if found.cut_log_ppm:
        sentences += (
            f" The bound was {signed_percent(bound_log_ppm)}; {found.slowdown.comparisons} control pairs show that base lost "
            f"{signed_percent(found.cut_log_ppm)} of that by being paired with the patch or in its own seat, and the price is cut by it."
        )
    visible = found.slowdown.found_ppb
    if visible is not None and visible > TARGET_LOG_PPB:
        sentences += f" This machine's noise hides a slow-down of base below {_percent(visible)}."
    return sentences


def _percent(ppb: int) -> str:
    return signed_percent(-(-ppb // PPB_PER_PPM))
