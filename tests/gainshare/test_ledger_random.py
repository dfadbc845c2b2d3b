"""Random sequences of calls against an independent model in plain Python; after each, the database must agree.

The model keeps what a person with a pencil would: lots, holds, escrows, awards and debts. It shares no code with
the ledger. Time is part of the sequence: expiry is called with a clock of the test's own.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone
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
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.gainshare.ledger_world import make_user, violations

amounts = st.integers(1, 400)
users = st.integers(0, 1)
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
    """Where every micro-credit should be."""

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


class Ledger(RuleBasedStateMachine):
    """Each rule does one thing in the ledger and in the model, or sees both refuse it."""

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.users = [make_user(), make_user()]
        self.model = Model()
        self.births = 0
        self.done: list[tuple[Any, dict[str, Any]]] = []

    def teardown(self) -> None:
        try:
            services.seal_entries(batch=9)
            assert violations() == []
        finally:
            transaction.set_rollback(True)
            self.atomic.__exit__(None, None, None)

    def call(self, function: Any, **content: Any) -> Any:
        result = function(**content)
        self.done.append((function, content))
        return result

    @initialize(grants=st.lists(st.integers(50, 300), min_size=2, max_size=4), pot=st.integers(200, 2_000))
    def begin(self, grants: list[int], pot: int) -> None:
        """Enough of everything that most rules have something to work on."""
        self.fund(20_000)
        self.open_escrow(pot)
        for number, amount in enumerate(grants):
            self.grant(user=number % 2, amount=amount, priority=number // 2, days=None)

    # -- money in ------------------------------------------------------------------------------------
    @rule(amount=amounts)
    def fund(self, amount: int) -> None:
        self.call(
            services.fund_treasury, transfer_id=uuid4(), amount_microcredits=amount, memo="", actor=None
        )
        self.model.treasury += amount
        self.model.issued += amount

    @rule(user=users, amount=amounts, priority=st.integers(0, 2), days=st.sampled_from([None, 1, 2, 9]))
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
    @rule(user=users, amount=st.integers(0, 250))
    def hold(self, user: int, amount: int) -> None:
        content = {
            "hold_id": uuid4(),
            "user": self.users[user],
            "amount_microcredits": amount,
            "expires_at": timezone.now() + timedelta(hours=1),
            "reference": "request",
        }
        lots = self.model.spendable(user)
        available = sum(lot.left - lot.held for lot in lots)
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

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), share=st.integers(0, 110), how=st.sampled_from(["settle", "settle", "void"]))
    def resolve(self, data: st.DataObject, share: int, how: str) -> None:
        still_open = [hold for hold in self.model.holds if hold.state == "open"]
        hold = data.draw(st.sampled_from(still_open * 3 + self.model.holds))
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

    @rule()
    def expire_holds(self) -> None:
        due = [hold for hold in self.model.holds if hold.state == "open"]
        assert services.expire_holds(now=timezone.now() + timedelta(hours=2)) == len(due)
        # Which hold is released first matters to no balance: collecting a debt only depends on the lots.
        for hold in due:
            self.model.resolve(hold, "expired", 0)

    @rule(days=st.sampled_from([1, 2]))
    def expire_lots(self, days: int) -> None:
        now = timezone.now() + timedelta(days=days, hours=1)
        due = [lot for lot in self.model.lots if lot.expires_at <= now and lot.left > lot.held]
        assert services.expire_lots(now=now) == len(due)
        for lot in due:
            self.model.breakage += lot.left - lot.held
            lot.left = lot.held

    # -- escrow and awards ---------------------------------------------------------------------------
    @rule(amount=amounts)
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

    @precondition(lambda self: self.model.escrows)
    @rule(
        data=st.data(), share=st.integers(1, 100), user=users, steps=st.sampled_from(["book", "vest", "vest"])
    )
    def award(self, data: st.DataObject, share: int, user: int, steps: str) -> None:
        """Several steps at once, since a random walk seldom takes them one after another."""
        before = len(self.model.awards)
        self.reserve(data, share, user)
        if len(self.model.awards) > before:
            made = self.model.awards[-1]
            self.book_this(made, share)
            if steps == "vest":
                self.vest_this(made)

    @precondition(lambda self: self.model.escrows)
    @rule(data=st.data(), chance=st.integers(0, 3))
    def close_escrow(self, data: st.DataObject, chance: int) -> None:
        if chance:
            return  # seldom: nothing much happens to a closed escrow
        escrow = data.draw(st.sampled_from(self.model.escrows))
        rest = escrow.money - escrow.pending
        returned = services.close_escrow(transfer_id=uuid4(), reference=escrow.reference)
        assert (returned.amount_microcredits if returned else 0) == rest
        escrow.is_closed = True
        self.model.sweep(escrow)

    @precondition(lambda self: self.model.escrows)
    @rule(data=st.data(), amount=amounts, user=users)
    def reserve(self, data: st.DataObject, amount: int, user: int) -> None:
        escrow = data.draw(st.sampled_from(self.model.escrows))
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

    @precondition(lambda self: self.model.awards)
    @rule(data=st.data(), share=st.integers(1, 100))
    def book(self, data: st.DataObject, share: int) -> None:
        self.book_this(data.draw(st.sampled_from(self.model.awards)), share)

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

    @precondition(lambda self: self.model.awards)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        award = data.draw(st.sampled_from(self.model.awards))
        assert (
            services.release_reservation(transfer_id=award.id).state == "voided" or award.state == "reserved"
        )
        if award.state == "reserved":
            award.state = "released"
            award.escrow.pending -= award.amount
            self.model.sweep(award.escrow)

    @precondition(lambda self: any(award.award_id for award in self.model.awards))
    @rule(data=st.data())
    def vest(self, data: st.DataObject) -> None:
        self.vest_this(data.draw(st.sampled_from([award for award in self.model.awards if award.award_id])))

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

    @precondition(lambda self: any(award.award_id for award in self.model.awards))
    @rule(data=st.data())
    def reverse(self, data: st.DataObject) -> None:
        award = data.draw(st.sampled_from([award for award in self.model.awards if award.award_id]))
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
    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Any earlier call again, long after: nothing may move (the invariants below would see it)."""
        function, content = data.draw(st.sampled_from(self.done))
        entries = Entry.objects.count()
        function(**content)
        assert Entry.objects.count() == entries

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat_with_another_amount(self, data: st.DataObject) -> None:
        function, content = data.draw(st.sampled_from(self.done))
        if "amount_microcredits" in content:
            with pytest.raises(IdConflict):
                function(**{**content, "amount_microcredits": content["amount_microcredits"] + 1})

    @rule()
    def seal(self) -> None:
        services.seal_entries(batch=5)

    # -- what must always hold -----------------------------------------------------------------------
    @invariant()
    def the_database_agrees_with_the_model(self) -> None:
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


def explore(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.django_db
def test_random_sequences_agree_with_the_model() -> None:
    explore(examples=25, steps=40)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.django_db
def test_many_long_random_sequences_agree_with_the_model() -> None:
    explore(examples=300, steps=100)
