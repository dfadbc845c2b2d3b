"""Award of a measured gain, in whole micro-credits. Pure integer arithmetic.

A gain is ``log_ppm``: ln(base time / candidate time) in millionths of a nat. Awards are linear in it, so a gain
split into several patches never pays more than in one piece: ``award(a) + award(b) <= award(a + b)``.
"""

from dataclasses import dataclass

PPM = 1_000_000
TEN_PER_CENT = 95_310  # log_ppm of an example gain: a million times ln 1.1, floored
# A quarter more than the gate's estimate is reserved, because the confirmation may find more than the gate.
RESERVE_NUMERATOR, RESERVE_DENOMINATOR = 5, 4


@dataclass(frozen=True, slots=True)
class AwardAmount:
    """The amount paid, and whether the reservation limited it."""

    microcredits: int
    is_partial: bool


def award_microcredits(*, rate_microcredits_per_nat: int, log_ppm: int) -> int:
    """``rate x log_ppm / 1e6``, floored once; 0 for a bound at or below zero."""
    if rate_microcredits_per_nat <= 0:
        raise ValueError("the rate must be a positive number of micro-credits per nat")
    return max(0, rate_microcredits_per_nat * log_ppm // PPM)


def confirmed_award(
    *, rate_microcredits_per_nat: int, bound_log_ppm: int, reserved_microcredits: int
) -> AwardAmount:
    """The award for the confirmation's lower bound, at most what was reserved for it."""
    if reserved_microcredits < 0:
        raise ValueError("the reservation must not be negative")
    due = award_microcredits(rate_microcredits_per_nat=rate_microcredits_per_nat, log_ppm=bound_log_ppm)
    return AwardAmount(min(due, reserved_microcredits), due > reserved_microcredits)


def wanted_reservation(*, rate_microcredits_per_nat: int, estimate_log_ppm: int) -> int:
    """The amount to reserve after a gate with this estimate: a quarter above its value, rounded up."""
    if estimate_log_ppm <= 0:
        raise ValueError("only an estimate above zero can be reserved for")
    numerator = rate_microcredits_per_nat * estimate_log_ppm * RESERVE_NUMERATOR
    return -(-numerator // (PPM * RESERVE_DENOMINATOR))


@dataclass(frozen=True, slots=True)
class BugShares:
    """The shares of a bug's award. Their sum is exactly the award."""

    reproduction_microcredits: int
    fix_microcredits: int


def bug_shares(*, award_microcredits: int, reproduction_ppm: int, is_reproduction_paid: bool) -> BugShares:
    """Split a bug's award: the reproduction's share is floored, the fix gets the rest."""
    if award_microcredits <= 0 or not 0 <= reproduction_ppm < PPM:
        raise ValueError("the award must be above zero, and a part of it must be left for the fix")
    reproduction = award_microcredits * reproduction_ppm // PPM if is_reproduction_paid else 0
    return BugShares(reproduction, award_microcredits - reproduction)


def required_reviewers(
    *, amount_microcredits: int, min_reviewers: int, two_above_microcredits: int | None
) -> int:
    """Number of other people who must accept before an award of this size may vest."""
    is_large = two_above_microcredits is not None and amount_microcredits > two_above_microcredits
    return max(min_reviewers, 2) if is_large else min_reviewers
