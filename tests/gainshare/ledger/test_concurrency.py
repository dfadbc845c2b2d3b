"""Races on a real PostgreSQL: threads with connections of their own, all starting at one barrier."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from gainshare.ledger import services
from gainshare.ledger.errors import (
    EscrowExhausted,
    EscrowExists,
    HoldResolved,
    IdConflict,
    InsufficientCredits,
    LedgerError,
    PaymentCounted,
    TransferResolved,
)
from gainshare.ledger.kinds import AccountKind, HoldState, TransferKind
from gainshare.ledger.models import Account, Entry, Hold, Reversal, Seal, Transfer, Unsealed
from tests.gainshare.ledger.ledger_world import World, posted, violations

pytestmark = pytest.mark.django_db(transaction=True)

Call = Callable[[], Any]


@pytest.fixture
def world() -> Iterator[World]:
    yield World()
    assert violations() == []


def race(*calls: Call) -> list[Any]:
    """Runs the calls at once, each in its own thread and connection; their results or refusals, in order.

    Anything but a refusal of the ledger, a deadlock above all, fails the test.
    """
    barrier = threading.Barrier(len(calls))

    def run(call: Call) -> Any:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=30)
            return call()
        except LedgerError as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def kinds(results: list[Any]) -> list[str]:
    return sorted(type(result).__name__ for result in results)


def test_two_holds_race_for_the_last_credits(world: World) -> None:
    for _ in range(10):
        world.grant(world.ann, 100)
        results = race(*[lambda: world.hold(world.ann, 60)] * 4)
        assert kinds(results) == ["Hold", "InsufficientCredits", "InsufficientCredits", "InsufficientCredits"]
        refusals = [result for result in results if isinstance(result, InsufficientCredits)]
        assert {refusal.available for refusal in refusals} == {40}
        hold = next(result for result in results if isinstance(result, Hold))
        services.settle_hold(hold_id=hold.pk, amount_microcredits=60)
        world.spend(world.ann, 40)
    assert services.totals().revenue == 1_000


def test_settle_void_and_expire_race_and_one_wins(world: World) -> None:
    world.grant(world.ann, 100_000)
    late = timezone.now() + timedelta(days=1)
    seen = set()
    for _ in range(25):
        hold = world.hold(world.ann, 100)
        results = race(
            lambda hold=hold: services.settle_hold(hold_id=hold.pk, amount_microcredits=70),
            lambda hold=hold: services.void_hold(hold_id=hold.pk),
            lambda: services.expire_holds(now=late),
        )
        hold.refresh_from_db()
        seen.add(hold.state)
        won = [isinstance(results[0], Hold), isinstance(results[1], Hold), results[2] == 1]
        assert won == [
            hold.state == state for state in (HoldState.SETTLED, HoldState.VOIDED, HoldState.EXPIRED)
        ]
        assert all(isinstance(result, Hold | HoldResolved | int) for result in results)
    assert len(seen) > 1, "the race was always won by the same side: it raced nothing"
    paid = Hold.objects.filter(state=HoldState.SETTLED).count() * 70
    assert services.totals().revenue == paid
    assert services.balance(world.ann) == services.Balance(
        available=100_000 - paid, held=0, unvested=0, owed=0
    )


def test_the_same_id_at_once_posts_once(world: World) -> None:
    for _ in range(5):
        transfer_id, hold_id = uuid4(), uuid4()
        lots = race(
            *[lambda transfer_id=transfer_id: world.grant(world.ann, 50, transfer_id=transfer_id)] * 4
        )
        assert len({lot.pk for lot in lots}) == 1
        holds = race(*[lambda hold_id=hold_id: world.hold(world.ann, 20, hold_id=hold_id)] * 4)
        assert len({hold.pk for hold in holds}) == 1
    assert services.balance(world.ann) == services.Balance(available=150, held=100, unvested=0, owed=0)


def test_the_same_id_with_other_content_at_once_conflicts(world: World) -> None:
    transfer_id = uuid4()
    results = race(
        *[lambda n=n: world.grant(world.ann, n, transfer_id=transfer_id) for n in (50, 51, 52)],
    )
    assert kinds(results) == ["Account", "IdConflict", "IdConflict"]
    assert any(isinstance(result, IdConflict) for result in results)


def test_an_escrow_opens_once_however_many_try(world: World) -> None:
    results = race(
        *[
            lambda: services.open_escrow(transfer_id=uuid4(), reference="bounty:1", amount_microcredits=10)
            for _ in range(4)
        ]
    )
    assert kinds(results) == ["Account", "EscrowExists", "EscrowExists", "EscrowExists"]
    assert sum(isinstance(result, EscrowExists) for result in results) == 3
    assert services.escrow_balance("bounty:1").posted == 10


def test_reservations_race_for_the_last_of_an_escrow(world: World) -> None:
    escrow = world.escrow(100)
    results = race(*[lambda: world.reserve(escrow, 30)] * 5)
    assert sum(isinstance(result, Transfer) for result in results) == 3
    assert sum(isinstance(result, EscrowExhausted) for result in results) == 2
    assert services.escrow_balance(escrow).available == 10


def test_a_reservation_is_booked_or_released_never_both(world: World) -> None:
    escrow = world.escrow(1_000)
    for _ in range(10):
        reservation = world.reserve(escrow, 30)

        def book(reservation: Transfer = reservation) -> Transfer:
            return services.book_award(
                transfer_id=uuid4(),
                reservation_id=reservation.pk,
                user=world.ann,
                amount_microcredits=20,
                reference="submission:1",
            )

        results = race(
            book,
            book,
            lambda reservation=reservation: services.release_reservation(transfer_id=reservation.pk),
        )
        booked = [
            result for result in results if isinstance(result, Transfer) and result.kind == TransferKind.AWARD
        ]
        assert len(booked) <= 1
    unvested = services.balance(world.ann).unvested
    assert unvested == 20 * Transfer.objects.filter(kind=TransferKind.AWARD).count()
    assert services.escrow_balance(escrow).reserved == unvested


def test_vesting_and_reversal_race_and_the_money_is_in_one_place(world: World) -> None:
    escrow = world.escrow(1_000)
    for _ in range(10):
        award = world.book(world.ann, escrow, 30)
        results = race(
            lambda award=award: services.vest_award(transfer_id=award.pk),
            lambda award=award: services.vest_award(transfer_id=award.pk),
            lambda award=award: services.reverse_award(
                transfer_id=award.pk, reversal_id=uuid4(), reason="race"
            ),
            lambda award=award: services.reverse_award(
                transfer_id=award.pk, reversal_id=uuid4(), reason="race"
            ),
        )
        assert all(isinstance(result, Account | Reversal | TransferResolved) for result in results)
        assert Reversal.objects.filter(award=award).count() == 1
        assert services.escrow_balance(escrow) == services.EscrowBalance(
            posted=1_000, reserved=0, available=1_000
        )
    assert services.balance(world.ann) == services.Balance(available=0, held=0, unvested=0, owed=0)


def test_spending_and_reversal_race_without_losing_a_micro_credit(world: World) -> None:
    escrow = world.escrow(1_000)
    for _ in range(10):
        award, lot = world.award(world.ann, escrow, 100)
        hold = world.hold(world.ann, min(80, services.balance(world.ann).available))
        race(
            lambda award=award: services.reverse_award(
                transfer_id=award.pk, reversal_id=uuid4(), reason="race"
            ),
            lambda hold=hold: services.settle_hold(hold_id=hold.pk, amount_microcredits=hold.amount // 2),
            lambda: services.expire_lots(now=timezone.now()),
        )
        assert posted(lot) == 0
        assert services.escrow_balance(escrow).posted == 1_000 - 0
    spent = services.totals().revenue
    assert services.balance(world.ann) == services.Balance(available=0, held=0, unvested=0, owed=spent)


def test_expiry_of_a_lot_and_holds_on_it_race(world: World) -> None:
    for _ in range(10):
        expires_at = timezone.now() + timedelta(days=1)
        lot = world.grant(world.ann, 100, expires_at=expires_at)
        results = race(
            *[lambda: world.hold(world.ann, 40)] * 2,
            *[lambda: services.expire_lots(now=expires_at)] * 2,  # noqa: B023 - runs within this turn
        )
        for hold in results[:2]:
            if isinstance(hold, Hold):
                services.void_hold(hold_id=hold.pk)
        services.expire_lots(now=expires_at)
        assert posted(lot) == 0
    assert services.totals().breakage == 1_000


def test_many_users_settle_at_once_into_one_revenue_account(world: World) -> None:
    users = [world.maintainer, world.ann, world.bob]
    for user in users:
        world.grant(user, 1_000)

    def spend(user: Any) -> None:
        for _ in range(20):
            world.spend(user, 5)

    race(*[lambda user=user: spend(user) for user in users * 2])
    assert services.totals().revenue == 6 * 100


def test_first_uses_make_the_single_accounts_once(world: World) -> None:
    del world  # it has made some; revenue and breakage are untouched so far
    from gainshare.ledger.services.posting import single_account

    results = race(*[lambda: single_account(AccountKind.REVENUE)] * 4)
    assert len({account.pk for account in results}) == 1


def test_sealers_take_turns_while_entries_are_written(world: World) -> None:
    world.grant(world.ann, 10_000)

    def write() -> None:
        for _ in range(15):
            world.spend(world.ann, 3)

    race(write, write, *[lambda: [services.seal_entries(batch=7) for _ in range(10)]] * 2)
    services.seal_entries(batch=7)
    assert Unsealed.objects.count() == 0
    sealed = [pk for seal in Seal.objects.order_by("pk") for pk in seal.entry_ids]
    assert sorted(sealed) == sorted(Entry.objects.values_list("pk", flat=True))


def test_one_payment_asked_for_by_four_at_once_gives_credits_once(world: World) -> None:
    def buy(payer: int) -> Call:
        user = world.ann if payer % 2 else world.bob
        return lambda: world.grant(user, 500, source="purchase", payment="invoice 7")

    results = race(*(buy(payer) for payer in range(4)))
    assert sum(isinstance(result, Account) for result in results) == 1
    assert sum(isinstance(result, PaymentCounted) for result in results) == 3
    assert services.totals().wallets == 500
