"""Random sequences of calls against an independent model in plain Python; after each, the database must agree.

The model keeps what a person with a pencil would: lots, holds, escrows, awards and debts. It shares no code with
the ledger. Time is part of the sequence: expiry is called with a clock of the test's own.
"""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import given, note, settings
from hypothesis import strategies as st

from gainshare.ledger import services
from gainshare.ledger.errors import (
    AboveHold,
    AboveReservation,
    EscrowClosed,
    EscrowExhausted,
    HoldResolved,
    IdConflict,
    InsufficientCredits,
    InsufficientTreasury,
    TransferResolved,
)
from gainshare.ledger.models import Account, Entry
from tests.gainshare.ledger.ledger_world import make_user, violations

pytestmark = pytest.mark.slow

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass
class Lot:
    user: int
    left: int
    priority: int
    expires_at: datetime
    born: int
    reference: str
    award: "Award | None" = None
    held: int = 0


@dataclass
class HoldModel:
    id: UUID
    user: int
    parts: list[tuple[Lot, int]]
    state: str = "open"
    settled: int = 0

    @property
    def amount(self) -> int:
        return sum(part for _, part in self.parts)


@dataclass
class Escrow:
    reference: str
    money: int
    is_closed: bool = False
    pending: int = 0


@dataclass
class Award:
    id: UUID
    escrow: Escrow
    user: int
    amount: int
    state: str = "reserved"  # reserved released unvested vested reversed
    award_id: UUID | None = None
    lot: Lot | None = None


@dataclass
class Model:
    """Independent model of all balances."""

    treasury: int = 0
    issued: int = 0
    revenue: int = 0
    breakage: int = 0
    owed: list[int] = field(default_factory=lambda: [0, 0])
    lots: list[Lot] = field(default_factory=list)
    holds: list[HoldModel] = field(default_factory=list)
    escrows: list[Escrow] = field(default_factory=list)
    awards: list[Award] = field(default_factory=list)

    def spendable(self, user: int) -> list[Lot]:
        lots = [lot for lot in self.lots if lot.user == user and lot.left > lot.held]
        return sorted(lots, key=lambda lot: (lot.priority, lot.expires_at, lot.born))

    def sweep(self, escrow: Escrow) -> None:
        if escrow.is_closed:
            self.treasury += escrow.money - escrow.pending
            escrow.money = escrow.pending

    def repay(self, lot: Lot) -> None:
        paid = min(lot.left - lot.held, self.owed[lot.user])
        lot.left -= paid
        self.owed[lot.user] -= paid

    def resolve(self, hold: HoldModel, state: str, amount: int) -> None:
        hold.state, hold.settled = state, amount
        self.revenue += amount
        for lot, part in hold.parts:
            paid = min(part, amount)
            amount -= paid
            lot.left -= paid
            lot.held -= part
        for lot, _ in hold.parts:
            if lot.award is not None and lot.award.state == "reversed":
                self.repay(lot)


ACTIONS = (
    *("hold", "settle", "settle", "void", "expire holds"),
    *("spend", "spend", "award", "award", "award", "reverse", "reverse"),
    *("reserve", "book", "release", "vest"),
    *("grant", "grant", "fund", "open", "close", "expire lots", "seal", "repeat", "repeat"),
)


class Walk:
    """Each action does one thing in the ledger and in the model, or sees both refuse it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.users = [make_user(), make_user()]
        self.model = Model()
        self.births = 0
        self.done: list[tuple[Any, dict[str, Any]]] = []

    def call(self, function: Any, **content: Any) -> Any:
        result = function(**content)
        self.done.append((function, content))
        return result

    def begin(self) -> None:
        """Enough of everything that most actions have something to work on."""
        self.fund(9_000)
        self.open_escrow(self.rng.randint(1_000, 5_000))
        for number in range(4):
            self.grant(
                user=number % 2, amount=self.rng.randint(50, 300), priority=number // 2 * 150, days=None
            )

    def step(self) -> str:
        """One action on something chosen at random; its name."""
        rng = self.rng
        action, amount = rng.choice(ACTIONS), rng.randint(1, 400)
        user, share = rng.randint(0, 1), rng.randint(1, 110)
        model = self.model
        booked = [award for award in model.awards if award.award_id]
        if action == "fund":
            self.fund(amount)
        elif action == "grant":
            self.grant(user, amount, share % 3 * 100, rng.choice([None, 1, 2, 9]))
        elif action == "hold":
            self.hold(user, amount)
        elif action == "spend":
            self.spend(user, min(share, 100))
        elif action in ("settle", "void") and model.holds:
            self.resolve(share, action)
        elif action == "expire holds":
            self.expire_holds()
        elif action == "expire lots":
            self.expire_lots(rng.choice([1, 2]))
        elif action == "open":
            self.open_escrow(amount * 10)
        elif action == "close" and share < 40:
            self.close_escrow()
        elif action == "award":
            self.award(amount, user, share)
        elif action == "reserve":
            self.reserve(amount * 5, user)
        elif action == "book" and model.awards:
            self.book_this(rng.choice(model.awards), min(share, 100))
        elif action == "release" and model.awards:
            self.release_this(rng.choice(model.awards))
        elif action == "vest" and booked:
            self.vest_this(rng.choice(booked))
        elif action == "reverse" and booked:
            vested = [award for award in booked if award.state == "vested"]
            award = rng.choice(booked + vested * 2)
            if share > 60:  # often while a hold keeps some of the lot
                self.hold(award.user, self.available(award.user) * min(share, 100) // 100)
            self.reverse(award)
        elif action == "repeat" and self.done:
            self.repeat()
        elif action == "seal":
            services.seal_entries(batch=5)
        return action

    # -- money in ------------------------------------------------------------------------------------
    def fund(self, amount: int) -> None:
        self.call(
            services.fund_treasury, transfer_id=uuid4(), amount_microcredits=amount, memo="", actor=None
        )
        self.model.treasury += amount
        self.model.issued += amount

    def grant(self, user: int, amount: int, priority: int, days: int | None) -> None:
        expires_at = timezone.now() + timedelta(days=days) if days else None
        content = {
            "transfer_id": uuid4(),
            "user": self.users[user],
            "amount_microcredits": amount,
            "source": "grant",
            "priority": priority,
            "expires_at": expires_at,
        }
        if amount > self.model.treasury:
            with pytest.raises(InsufficientTreasury):
                services.grant_credits(**content)
            return
        self.call(services.grant_credits, **content)
        self.model.treasury -= amount
        self.births += 1
        self.model.lots.append(
            Lot(user, amount, priority, expires_at or FAR, self.births, f"grant:{content['transfer_id']}")
        )

    # -- holds ---------------------------------------------------------------------------------------
    def hold(self, user: int, amount: int) -> None:
        content = {
            "hold_id": uuid4(),
            "user": self.users[user],
            "amount_microcredits": amount,
            "expires_at": timezone.now() + timedelta(hours=1),
            "reference": "request",
        }
        lots = self.model.spendable(user)
        available = self.available(user)
        if amount > available:
            with pytest.raises(InsufficientCredits) as refusal:
                services.open_hold(**content)
            assert refusal.value.available == available
            return
        self.call(services.open_hold, **content)
        parts = []
        for lot in lots:
            part = min(amount, lot.left - lot.held)
            if part:
                lot.held += part
                amount -= part
                parts.append((lot, part))
        self.model.holds.append(HoldModel(content["hold_id"], user, parts))

    def available(self, user: int) -> int:
        return sum(lot.left - lot.held for lot in self.model.spendable(user))

    def spend(self, user: int, share: int) -> None:
        """Spend most of a user's credits, so that a later reversal books a debt."""
        amount = self.available(user) * share // 100
        self.hold(user, amount)
        made = self.model.holds[-1]
        services.settle_hold(hold_id=made.id, amount_microcredits=amount)
        self.model.resolve(made, "settled", amount)

    def resolve(self, share: int, how: str) -> None:
        still_open = [hold for hold in self.model.holds if hold.state == "open"]
        hold = self.rng.choice(still_open * 3 + self.model.holds)
        amount = hold.amount * share // 100 if how == "settle" else 0
        state = "settled" if how == "settle" else "voided"

        def act() -> Any:
            if how == "void":
                return services.void_hold(hold_id=hold.id)
            return services.settle_hold(hold_id=hold.id, amount_microcredits=amount)

        if hold.state == "open" and amount > hold.amount:
            with pytest.raises(AboveHold):
                act()
        elif hold.state == "open":
            act()
            self.model.resolve(hold, state, amount)
        elif hold.state == state and hold.settled == amount:
            assert act().settled == amount
        else:
            with pytest.raises((HoldResolved, IdConflict)):
                act()

    def expire_holds(self) -> None:
        due = [hold for hold in self.model.holds if hold.state == "open"]
        assert services.expire_holds(now=timezone.now() + timedelta(hours=2)) == len(due)
        # Which hold is released first matters to no balance: collecting a debt only depends on the lots.
        for hold in due:
            self.model.resolve(hold, "expired", 0)

    def expire_lots(self, days: int) -> None:
        now = timezone.now() + timedelta(days=days, hours=1)
        due = [lot for lot in self.model.lots if lot.expires_at <= now and lot.left > lot.held]
        assert services.expire_lots(now=now) == len(due)
        for lot in due:
            self.model.breakage += lot.left - lot.held
            lot.left = lot.held

    # -- escrow and awards ---------------------------------------------------------------------------
    def open_escrow(self, amount: int) -> None:
        content = {
            "transfer_id": uuid4(),
            "reference": f"bounty:{len(self.model.escrows)}",
            "amount_microcredits": amount,
        }
        if amount > self.model.treasury:
            with pytest.raises(InsufficientTreasury):
                services.open_escrow(**content)
            return
        self.call(services.open_escrow, **content)
        self.model.treasury -= amount
        self.model.escrows.append(Escrow(content["reference"], amount))

    def award(self, amount: int, user: int, share: int) -> None:
        """Reserved, booked and vested at once, since a random walk seldom takes the three in a row."""
        before = len(self.model.awards)
        self.reserve(amount, user)
        if len(self.model.awards) > before:
            self.book_this(self.model.awards[-1], min(share, 100))
            self.vest_this(self.model.awards[-1])

    def close_escrow(self) -> None:
        escrow = self.rng.choice(self.model.escrows)
        rest = escrow.money - escrow.pending
        returned = services.close_escrow(transfer_id=uuid4(), reference=escrow.reference)
        assert (returned.amount_microcredits if returned else 0) == rest
        escrow.is_closed = True
        self.model.sweep(escrow)

    def reserve(self, amount: int, user: int) -> None:
        escrow = self.rng.choice(self.model.escrows)
        content = {
            "transfer_id": uuid4(),
            "escrow_reference": escrow.reference,
            "amount_microcredits": amount,
            "reference": "submission",
        }
        if escrow.is_closed or amount > escrow.money - escrow.pending:
            with pytest.raises(EscrowClosed if escrow.is_closed else EscrowExhausted):
                services.reserve_award(**content)
            return
        self.call(services.reserve_award, **content)
        escrow.pending += amount
        self.model.awards.append(Award(content["transfer_id"], escrow, user, amount))

    def book_this(self, award: Award, share: int) -> None:
        amount = max(1, award.amount * share // 100)
        content = {
            "transfer_id": uuid4(),
            "reservation_id": award.id,
            "user": self.users[award.user],
            "amount_microcredits": amount,
            "reference": "submission",
        }
        if award.state != "reserved":
            with pytest.raises(TransferResolved):
                services.book_award(**content)
            return
        with pytest.raises(AboveReservation):
            services.book_award(**{**content, "amount_microcredits": award.amount + 1})
        self.call(services.book_award, **content)
        award.escrow.pending -= award.amount - amount
        award.amount, award.state, award.award_id = amount, "unvested", content["transfer_id"]
        self.births += 1
        award.lot = Lot(award.user, 0, 100, FAR, self.births, f"award:{award.award_id}", award)
        self.model.sweep(award.escrow)

    def release_this(self, award: Award) -> None:
        assert services.release_reservation(transfer_id=award.id).state == "voided"
        if award.state == "reserved":
            award.state = "released"
            award.escrow.pending -= award.amount
            self.model.sweep(award.escrow)

    def vest_this(self, award: Award) -> None:
        assert award.lot is not None
        if award.state == "unvested":
            services.vest_award(transfer_id=award.award_id)
            award.state = "vested"
            award.escrow.money -= award.amount
            award.escrow.pending -= award.amount
            award.lot.left = award.amount
            self.model.lots.append(award.lot)
            self.model.repay(award.lot)
        elif award.state == "vested" or award.lot in self.model.lots:
            assert services.vest_award(transfer_id=award.award_id).posted_microcredits == award.lot.left
        else:
            with pytest.raises(TransferResolved):
                services.vest_award(transfer_id=award.award_id)

    def reverse(self, award: Award) -> None:
        content = {"transfer_id": award.award_id, "reversal_id": uuid4(), "reason": "random"}
        if award.state == "reversed":
            with pytest.raises(TransferResolved):
                services.reverse_award(**content)
            return
        made = self.call(services.reverse_award, **content)
        if award.state == "unvested":
            assert (made.from_escrow, made.from_lot, made.receivable) == (award.amount, 0, 0)
            award.escrow.pending -= award.amount
        else:
            assert award.lot is not None
            taken = award.lot.left - award.lot.held
            assert (made.from_escrow, made.from_lot, made.receivable) == (0, taken, award.amount - taken)
            award.lot.left -= taken
            self.model.owed[award.user] += award.amount - taken
            award.escrow.money += award.amount
        award.state = "reversed"
        self.model.sweep(award.escrow)

    # -- repeating -----------------------------------------------------------------------------------
    def repeat(self) -> None:
        """Any earlier call again, long after: nothing may move (the invariants below would see it)."""
        function, content = self.rng.choice(self.done)
        entries = Entry.objects.count()
        function(**content)
        assert Entry.objects.count() == entries
        if "amount_microcredits" in content:
            with pytest.raises(IdConflict):
                function(**{**content, "amount_microcredits": content["amount_microcredits"] + 1})

    # -- what must always hold -----------------------------------------------------------------------
    def compare(self) -> None:
        connection.check_constraints()  # the deferred triggers, as at a commit
        model = self.model
        assert services.totals() == services.Totals(
            issued=model.issued,
            treasury=model.treasury,
            escrow=sum(escrow.money for escrow in model.escrows),
            wallets=sum(lot.left for lot in model.lots),
            revenue=model.revenue,
            breakage=model.breakage,
            owed=sum(model.owed),
        )
        for index, user in enumerate(self.users):
            mine = [lot for lot in model.lots if lot.user == index]
            awards = [award for award in model.awards if award.user == index and award.state == "unvested"]
            assert services.balance(user) == services.Balance(
                available=sum(lot.left - lot.held for lot in mine),
                held=sum(lot.held for lot in mine),
                unvested=sum(award.amount for award in awards),
                owed=model.owed[index],
            )
        for escrow in model.escrows:
            assert services.escrow_balance(escrow.reference) == services.EscrowBalance(
                posted=escrow.money, reserved=escrow.pending, available=escrow.money - escrow.pending
            )
        lots = Account.objects.filter(kind="wallet_lot").exclude(posted_microcredits=0)
        assert sorted(lots.values_list("reference", "posted_microcredits", "pending_microcredits")) == sorted(
            (lot.reference, lot.left, lot.held) for lot in model.lots if lot.left
        )


def violations_of_walk(seed: int, steps: int) -> list[str]:
    """Walks, and compares after every step; invariants that do not hold at the end. Then everything is undone."""
    with transaction.atomic():
        walk = Walk(seed)
        walk.begin()
        for _ in range(steps):
            note(walk.step())
            walk.compare()
        services.seal_entries(batch=9)
        found = violations()
        transaction.set_rollback(True)
    return found


seeds = st.integers(0, 2**64 - 1)


@pytest.mark.django_db
@settings(max_examples=20, deadline=None, print_blob=True)
@given(seed=seeds, steps=st.integers(40, 60))
def test_random_sequences_agree_with_the_model(seed: int, steps: int) -> None:
    assert violations_of_walk(seed, steps) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.django_db
@settings(max_examples=400, deadline=None, print_blob=True)
@given(seed=seeds, steps=st.integers(100, 200))
def test_many_long_random_sequences_agree_with_the_model(seed: int, steps: int) -> None:
    assert violations_of_walk(seed, steps) == []
