"""Decision of a confirmation: its bound, what control pairs cut from it, and what old and direct pairs say about base. Pure.

The bound after the cut is the price. Old pairs go first: where they find base slow, direct pairs are not needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.evidence import direct, earlier, old, partner
from benchmarks.evidence.gains import doubt, lacks_controls, partner_rules, unchecked, units
from benchmarks.evidence.samples import Samples, read_samples
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.statistics.confirm import ConfirmationResult, repeated_confirmation
from benchmarks.statistics.controls import BLOCK
from benchmarks.statistics.earlier import NextBound, bound_after
from benchmarks.statistics.old import OldDecision, OldOutcome
from benchmarks.statistics.units import signed_percent


@dataclass(frozen=True, slots=True)
class Extras:
    """Pairs of each other kind in the next block, in addition to the measured ones."""

    controls: int
    old: int = 0
    direct: int = 0


def confirmation_units(document: dict[str, Any], samples: Samples) -> int:
    """Units that a confirmation has in all: its plan's, and those of each whole confirmation that it continues."""
    pairs = int(document["plan"]["confirmation_pairs"])
    return pairs * (samples.earlier_units // pairs + 1)


def wanted_extras(document: dict[str, Any], samples: Samples, pairs_left: int) -> Extras:
    """Choose what goes with the next block of measured pairs, or alone where these are there."""
    blocks, before = blocks_left(pairs_left), old.decision(document, samples)
    old_pairs, direct_pairs = old.wanted_pairs(document, samples, blocks), 0
    if not _is_slow(before):
        is_open = before is not None and before.outcome is OldOutcome.MEASURE_ON
        price = None if is_open else _price_log_ppm(document, samples)  # old pairs go first
        direct_pairs = direct.wanted_pairs(document, samples, blocks, price)
    if pairs_left <= 0:
        return Extras(0 if old_pairs or direct_pairs else 1, old_pairs, direct_pairs)
    return Extras(partner.wanted_controls(document, samples, blocks), old_pairs, direct_pairs)


def blocks_left(pairs_left: int) -> int:
    """Blocks of measured pairs that are still to come."""
    return -(-max(0, pairs_left) // BLOCK)


def confirmation_verdict(document: dict[str, Any], samples: Samples) -> Verdict | None:
    """The verdict; None while the run should measure more pairs."""
    found = _found(document, samples)
    if found is None:
        return None
    wanted = confirmation_units(document, samples)
    if without_checks := unchecked(document, wanted):
        return without_checks
    estimate, bound = found.result.estimate_log_ppm, found.result.bound_log_ppm
    if not found.result.is_gain:
        reason = (
            f"Not confirmed: over {wanted} new pairs the median is {signed_percent(estimate)}, and its "
            f"{earlier.confidence(found)} lower bound is {signed_percent(bound)}, not above zero."
            f"{earlier.said(document, found)} Find a larger effect and submit again."
        )
        return Verdict(VerdictKind.NO_GAIN, reason, estimate, bound, wanted)
    if lacks_controls(document, samples, wanted):
        return None
    before = old.decision(document, samples)
    if before is not None and before.outcome is OldOutcome.MEASURE_ON:
        return None
    if contradiction := doubt(document, samples):
        return Verdict(contradiction[0], contradiction[1], estimate, bound, wanted)
    return _priced(document, samples, found, before, wanted)


def _priced(
    document: dict[str, Any], samples: Samples, found: NextBound, before: OldDecision | None, wanted: int
) -> Verdict | None:
    """The verdict on a gain that nothing contradicts: its price, or that base is slow; None while direct pairs are missing.

    `before` is what the old pairs decided, `wanted` the number of measured pairs.
    """
    rules, bound = partner_rules(document), found.result.bound_log_ppm
    cut = rules.cut_log_ppm(document, samples)
    said = earlier.said(document, found) + rules.said(document, samples, bound)
    estimate, bound = found.result.estimate_log_ppm - cut, bound - cut
    if before is not None and before.outcome is OldOutcome.SLOW:
        price = old.price_log_ppm(before, bound)
        reason = old.doubt(document, before, price)
        return Verdict(VerdictKind.SUSPICIOUS, reason, estimate + price - bound, price, wanted)
    said += old.said(document)
    if bound <= 0:
        reason = (
            f"Not confirmed: nothing is left of the gain.{said} Find out what the patch does to the process next to it, or find "
            "a larger effect, and submit again."
        )
        return Verdict(VerdictKind.NO_GAIN, reason, estimate, bound, wanted)
    without_base = direct.decision(document, samples, bound)
    if without_base is not None and without_base.outcome is OldOutcome.MEASURE_ON:
        return None
    if without_base is not None and without_base.outcome is OldOutcome.SLOW:
        price = old.price_log_ppm(without_base, bound)
        reason = direct.doubt(document, without_base, bound)
        return Verdict(VerdictKind.SUSPICIOUS, reason, estimate + price - bound, price, wanted)
    reason = (
        f"Confirmed: {signed_percent(bound)} at least, with {earlier.confidence(found)} confidence ({wanted} new pairs, median "
        f"{signed_percent(estimate)}).{said} This bound sets the award. Next, another person reviews the patch."
    )
    return Verdict(VerdictKind.GAIN, reason, estimate, bound, wanted)


def finds_slow_base(document: dict[str, Any]) -> bool:
    """Whether old pairs or direct pairs show that base has lost what was paid for it."""
    samples = read_samples(document)
    if _is_slow(old.decision(document, samples)):
        return True
    price = _price_log_ppm(document, samples)
    return price is not None and _is_slow(direct.decision(document, samples, price))


def _is_slow(found: OldDecision | None) -> bool:
    return found is not None and found.outcome is OldOutcome.SLOW


def _found(document: dict[str, Any], samples: Samples) -> NextBound | None:
    """The bound before the cut; None before the last measured pair."""
    wanted, measured = confirmation_units(document, samples), units(document, samples)
    if len(measured) < wanted:
        return None
    usual = confirmed(measured[:wanted], document["plan"]["confirmation_pairs"])
    return bound_after(usual, measured[:wanted], earlier.stated(document))


def _price_log_ppm(document: dict[str, Any], samples: Samples) -> int | None:
    """The bound after the cut; None where it is not known yet, or not above zero."""
    found = _found(document, samples)
    if found is None or not found.result.is_gain:
        return None
    if lacks_controls(document, samples, confirmation_units(document, samples)):
        return None
    price: int = found.result.bound_log_ppm - partner_rules(document).cut_log_ppm(document, samples)
    return price if price > 0 else None


def confirmed(units: Sequence[float], pairs: int) -> ConfirmationResult:
    """The bound over all confirmations of one candidate, `pairs` units each, in the order measured."""
    return repeated_confirmation([units[start : start + pairs] for start in range(0, len(units), pairs)])
