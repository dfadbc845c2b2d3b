"""Awards: reserved, booked, vested, reversed; unvested is unspendable, a debt is repaid first."""

from uuid import uuid4

import pytest

from gainshare.ledger import services
from gainshare.ledger.errors import (
    AboveReservation,
    IdConflict,
    InsufficientCredits,
    TransferResolved,
    UnknownTransfer,
)
from gainshare.ledger.kinds import TransferKind, TransferState
from gainshare.ledger.models import Reversal, Transfer
from tests.gainshare.ledger.ledger_world import World, posted, violations

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def escrow(world: World) -> str:
    return world.escrow(1_000)


def book(world: World, reservation: Transfer, amount: int) -> Transfer:
    return services.book_award(
        transfer_id=uuid4(),
        reservation_id=reservation.pk,
        user=world.ann,
        amount_microcredits=amount,
        reference="submission:1",
    )


def test_an_unvested_award_is_in_escrow_and_unspendable(world: World, escrow: str) -> None:
    world.book(world.ann, escrow, 300)
    assert services.balance(world.ann) == services.Balance(available=0, held=0, unvested=300, owed=0)
    assert services.escrow_balance(escrow) == services.EscrowBalance(
        posted=1_000, reserved=300, available=700
    )
    with pytest.raises(InsufficientCredits):
        world.hold(world.ann, 1)


def test_booking_less_than_reserved_frees_the_rest(world: World, escrow: str) -> None:
    world.book(world.ann, escrow, 250, reserved=400)
    assert services.escrow_balance(escrow).available == 750


def test_booking_more_than_reserved_is_refused(world: World, escrow: str) -> None:
    reservation = world.reserve(escrow, 100)
    with pytest.raises(AboveReservation):
        book(world, reservation, 101)
    assert Transfer.objects.get(pk=reservation.pk).state == TransferState.PENDING


def test_a_reservation_is_used_once(world: World, escrow: str) -> None:
    reservation = world.reserve(escrow, 100)
    book(world, reservation, 60)
    with pytest.raises(TransferResolved):
        book(world, reservation, 30)
    assert services.balance(world.ann).unvested == 60


def test_a_released_reservation_cannot_be_booked(world: World, escrow: str) -> None:
    reservation = world.reserve(escrow, 100)
    assert services.release_reservation(transfer_id=reservation.pk).state == TransferState.VOIDED
    assert services.release_reservation(transfer_id=reservation.pk).state == TransferState.VOIDED
    assert services.escrow_balance(escrow).available == 1_000
    with pytest.raises(TransferResolved):
        book(world, reservation, 50)


def test_vesting_makes_a_spendable_lot(world: World, escrow: str) -> None:
    award, lot = world.award(world.ann, escrow, 300)
    assert (lot.source, lot.owner, lot.available_microcredits) == ("award", world.ann, 300)
    assert services.balance(world.ann) == services.Balance(available=300, held=0, unvested=0, owed=0)
    assert services.escrow_balance(escrow).posted == 700
    world.spend(world.ann, 120)
    assert services.vest_award(transfer_id=award.pk).posted_microcredits == 180  # repeating changes nothing
    assert violations() == []


def test_reversal_before_vesting_takes_escrow(world: World, escrow: str) -> None:
    award = world.book(world.ann, escrow, 300)
    reversal = services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="reverted")
    assert (reversal.from_escrow, reversal.from_lot, reversal.receivable) == (300, 0, 0)
    assert services.escrow_balance(escrow).available == 1_000
    assert services.balance(world.ann).unvested == 0
    with pytest.raises(TransferResolved):
        services.vest_award(transfer_id=award.pk)
    assert violations() == []


def test_reversal_after_vesting_takes_the_unspent_and_books_the_rest(world: World, escrow: str) -> None:
    award, lot = world.award(world.ann, escrow, 300)
    world.spend(world.ann, 120)
    reversal = services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="cheat found")
    assert (reversal.from_escrow, reversal.from_lot, reversal.receivable) == (0, 180, 120)
    assert posted(lot) == 0
    assert services.balance(world.ann) == services.Balance(available=0, held=0, unvested=0, owed=120)
    assert services.escrow_balance(escrow).available == 1_000
    assert violations() == []


def test_reversal_leaves_other_lots_alone(world: World, escrow: str) -> None:
    grant = world.grant(world.ann, 50, priority=900)
    award, _ = world.award(world.ann, escrow, 300)
    world.spend(world.ann, 300)
    services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="cheat found")
    assert posted(grant) == 50
    assert services.balance(world.ann).owed == 300


def test_the_next_vested_awards_repay_a_debt_first(world: World, escrow: str) -> None:
    award, _ = world.award(world.ann, escrow, 300)
    world.spend(world.ann, 300)
    services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="cheat found")
    _, second = world.award(world.ann, escrow, 100)
    assert second.available_microcredits == 0
    assert services.balance(world.ann).owed == 200
    again, third = world.award(world.ann, escrow, 250)
    assert third.available_microcredits == 50
    assert services.balance(world.ann) == services.Balance(available=50, held=0, unvested=0, owed=0)
    services.vest_award(transfer_id=again.pk)
    assert Transfer.objects.filter(kind=TransferKind.REPAYMENT).count() == 2
    assert services.totals().owed == 0
    assert violations() == []


def test_a_debt_takes_nothing_from_grants_or_from_others(world: World, escrow: str) -> None:
    award, _ = world.award(world.ann, escrow, 300)
    world.spend(world.ann, 300)
    services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="cheat found")
    world.grant(world.ann, 40)
    world.award(world.bob, escrow, 100)
    assert services.balance(world.ann) == services.Balance(available=40, held=0, unvested=0, owed=300)
    assert services.balance(world.bob).available == 100


def test_what_a_hold_keeps_at_reversal_is_collected_when_it_is_released(world: World, escrow: str) -> None:
    award, lot = world.award(world.ann, escrow, 300)
    hold = world.hold(world.ann, 200)
    reversal = services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="cheat found")
    assert (reversal.from_lot, reversal.receivable) == (100, 200)
    services.settle_hold(hold_id=hold.pk, amount_microcredits=50)
    assert posted(lot) == 0
    assert services.balance(world.ann) == services.Balance(available=0, held=0, unvested=0, owed=50)
    assert violations() == []


def test_reversing_a_reversed_award_again_changes_nothing(world: World, escrow: str) -> None:
    award, _ = world.award(world.ann, escrow, 300)
    reversal_id = uuid4()
    first = services.reverse_award(transfer_id=award.pk, reversal_id=reversal_id, reason="cheat found")
    assert (
        services.reverse_award(transfer_id=award.pk, reversal_id=reversal_id, reason="cheat found") == first
    )
    with pytest.raises(TransferResolved):
        services.reverse_award(transfer_id=award.pk, reversal_id=uuid4(), reason="once more")
    other = world.book(world.ann, escrow, 10)
    with pytest.raises(IdConflict):
        services.reverse_award(transfer_id=other.pk, reversal_id=reversal_id, reason="cheat found")
    assert Reversal.objects.count() == 1
    assert services.escrow_balance(escrow) == services.EscrowBalance(posted=1_000, reserved=10, available=990)


def test_ids_of_another_kind_are_unknown(world: World, escrow: str) -> None:
    reservation = world.reserve(escrow, 10)
    for call in (
        lambda: services.vest_award(transfer_id=reservation.pk),
        lambda: services.vest_award(transfer_id=uuid4()),
        lambda: services.release_reservation(transfer_id=uuid4()),
        lambda: services.reverse_award(transfer_id=reservation.pk, reversal_id=uuid4(), reason=""),
    ):
        with pytest.raises(UnknownTransfer):
            call()
    award = book(world, reservation, 10)
    with pytest.raises(UnknownTransfer):
        services.release_reservation(transfer_id=award.pk)
