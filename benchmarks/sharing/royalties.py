"""Royalties: who shares a saving, what of it users pay while royalties run, and what one day pays. Whole numbers only.

Every division rounds down. So users never pay more than the exact price, a contributor is never paid more than the
exact royalty, and what is left over stays with the users or the platform's revenue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from benchmarks.sharing.savings import MILLION

PAYER_CAP_PPM = 200_000
"""All royalties together take at most this share of what one account paid in a day."""

DAY_CAP_PPM = 300_000
"""All royalties of a model together take at most this share of what was paid for it in a day."""

COUNTING_SOURCES = frozenset({"award", "purchase"})
"""Sources of lots whose use earns royalties: vested awards and purchases. No starter, granted or royalty lot does."""


@dataclass(frozen=True, slots=True)
class Law:
    """A lineage's law: the contributor's share of a saving, in millionths, for so many days."""

    share_ppm: int = 300_000
    days: int = 90

    def __post_init__(self) -> None:
        if type(self.share_ppm) is not int or not 0 <= self.share_ppm <= MILLION:
            raise ValueError("The share must be a whole number of millionths from 0 to 1000000.")
        if type(self.days) is not int or not 0 <= self.days <= MOST_DAYS:
            raise ValueError(f"The days must be a whole number from 0 to {MOST_DAYS}.")

    @property
    def lasts(self) -> timedelta:
        return timedelta(days=self.days)


MOST_DAYS = 3650


def credits_of(saving_ppm: int, logs: Sequence[int], most: Sequence[int | None] | None = None) -> list[int]:
    """Split a saving among gains by the logs of their confirmed bounds, in their order; the rest belongs to no one.

    ``most`` are limits of the same gains, None where there is none.
    """
    if saving_ppm < 0 or any(log <= 0 for log in logs):
        raise ValueError("a saving is not negative, and a gain's log is above zero")
    total = sum(logs)
    shares = [saving_ppm * log // total for log in logs]
    limits = [None] * len(logs) if most is None else most
    return [
        share if limit is None else min(share, limit) for share, limit in zip(shares, limits, strict=True)
    ]


def royalty_ppm(saving_ppm: int, share_ppm: int) -> int:
    """A running royalty's part of the reference price, in millionths."""
    return saving_ppm * share_ppm // MILLION


def shared_price(reference: int, remaining_ppm: int, royalties_ppm: Iterable[int] = ()) -> int:
    """Price of a line: what is left of the reference price, plus the royalties that run on it; never above it."""
    return reference * min(MILLION, remaining_ppm + sum(royalties_ppm)) // MILLION


@dataclass(frozen=True, slots=True)
class Claim:
    """What one payer's tokens of a day owe one term: its ``saving_ppm`` of what they would have cost before, shared.

    ``person`` earns the term. Nobody's own tokens owe them anything.
    """

    term: str
    person: int
    payer: int
    saving_ppm: int
    share_ppm: int
    before_microcredits: int

    @property
    def due(self) -> int:
        if self.person == self.payer:
            return 0
        return self.before_microcredits * self.saving_ppm * self.share_ppm // (MILLION * MILLION)


def counted(paid_by_source: Mapping[str, int]) -> int:
    """What of a payment counts, by the sources of the lots that it was paid from."""
    return sum(amount for source, amount in paid_by_source.items() if source in COUNTING_SOURCES)


def day_pay(
    claims: Iterable[Claim],
    paid: Mapping[int, int],
    *,
    payer_cap_ppm: int = PAYER_CAP_PPM,
    day_cap_ppm: int = DAY_CAP_PPM,
) -> dict[str, int]:
    """Micro-credits for each term for one day of one model.

    ``paid`` is what each account paid from lots that count, for all its requests to the model. The first cap is for
    all royalties of one payer together, no matter who earns them, so that a gain in several names is paid no more.
    """
    by_payer: dict[int, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_payer[claim.payer].append(claim)
    earned: dict[str, int] = defaultdict(int)
    for payer, owed in by_payer.items():
        due = [each.due for each in owed]
        for each, amount in zip(
            owed, _within(due, paid.get(payer, 0) * payer_cap_ppm // MILLION), strict=True
        ):
            earned[each.term] += amount
    terms = list(earned)
    amounts = _within([earned[term] for term in terms], sum(paid.values()) * day_cap_ppm // MILLION)
    return {term: amount for term, amount in zip(terms, amounts, strict=True) if amount > 0}


def _within(amounts: Sequence[int], most: int) -> list[int]:
    """The amounts, in proportion, so that their sum is at most this."""
    total = sum(amounts)
    return list(amounts) if total <= most else [amount * most // total for amount in amounts]
