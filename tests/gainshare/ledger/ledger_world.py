"""A small world for the ledger's tests: a maintainer, two users, and short words for what happens to them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.ledger import services
from gainshare.ledger.audit import Invariant, audit
from gainshare.ledger.models import Account, Hold, Transfer

_numbers = count(1)


def make_user(role: str = "contributor") -> User:
    """A user with an unusable password: hashing one would be the slowest part of a test."""
    user = User(username=f"{role}{next(_numbers)}-{uuid4().hex[:6]}", role=role)
    user.set_unusable_password()
    user.save()
    return user


@dataclass
class World:
    """Ann and Bob earn and spend; the treasury starts with 1,000,000 micro-credits."""

    maintainer: User = field(default_factory=lambda: make_user("maintainer"))
    ann: User = field(default_factory=make_user)
    bob: User = field(default_factory=make_user)
    funded: int = 1_000_000

    def __post_init__(self) -> None:
        self.fund(self.funded)

    def fund(self, amount: int) -> Transfer:
        return services.fund_treasury(
            transfer_id=uuid4(), amount_microcredits=amount, memo="test", actor=self.maintainer
        )

    def grant(self, user: User, amount: int, **more: Any) -> Account:
        terms = {"transfer_id": uuid4(), "source": "grant", **more}
        return services.grant_credits(user=user, amount_microcredits=amount, **terms)

    def escrow(self, amount: int) -> str:
        reference = f"bounty:{uuid4()}"
        services.open_escrow(transfer_id=uuid4(), reference=reference, amount_microcredits=amount)
        return reference

    def reserve(self, escrow: str, amount: int) -> Transfer:
        return services.reserve_award(
            transfer_id=uuid4(), escrow_reference=escrow, amount_microcredits=amount, reference="submission:1"
        )

    def book(self, user: User, escrow: str, amount: int, *, reserved: int | None = None) -> Transfer:
        reservation = self.reserve(escrow, amount if reserved is None else reserved)
        return services.book_award(
            transfer_id=uuid4(),
            reservation_id=reservation.pk,
            user=user,
            amount_microcredits=amount,
            reference="submission:1",
        )

    def award(self, user: User, escrow: str, amount: int) -> tuple[Transfer, Account]:
        """A vested award and its lot."""
        award = self.book(user, escrow, amount)
        return award, services.vest_award(transfer_id=award.pk)

    def hold(
        self, user: User, amount: int, *, hold_id: UUID | None = None, expires_at: datetime | None = None
    ) -> Hold:
        return services.open_hold(
            hold_id=hold_id or uuid4(),
            user=user,
            amount_microcredits=amount,
            expires_at=expires_at or timezone.now() + timedelta(minutes=10),
            reference="request:1",
        )

    def spend(self, user: User, amount: int) -> Hold:
        return services.settle_hold(
            hold_id=self.hold(user, amount).pk, amount_microcredits=amount, memo="used"
        )


def posted(account: Account) -> int:
    """The account's posted balance in the database."""
    return Account.objects.get(pk=account.pk).posted_microcredits


def violations() -> list[Invariant]:
    """The invariants that do not hold now."""
    return [found for found in audit() if not found.holds]
