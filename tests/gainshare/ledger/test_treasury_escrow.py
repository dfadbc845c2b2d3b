"""Credits are created only by funding; escrow takes them from the treasury and returns the rest."""

from typing import Any
from uuid import uuid4

import pytest

from gainshare.ledger import services
from gainshare.ledger.errors import (
    EscrowClosed,
    EscrowExhausted,
    EscrowExists,
    InsufficientTreasury,
    InvalidAmount,
    MaintainerOnly,
    UnknownEscrow,
)
from gainshare.ledger.kinds import AccountKind, TransferState
from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.services.posting import MAX_MICROCREDITS
from tests.gainshare.ledger.ledger_world import World, violations

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    return World()


def test_funding_issues_credits_into_the_treasury(world: World) -> None:
    world.fund(500)
    totals = services.totals()
    assert (totals.issued, totals.treasury) == (1_000_500, 1_000_500)
    assert violations() == []


def test_only_a_maintainer_or_the_platform_itself_funds(world: World) -> None:
    with pytest.raises(MaintainerOnly):
        services.fund_treasury(transfer_id=uuid4(), amount_microcredits=1, memo="", actor=world.ann)
    made = services.fund_treasury(transfer_id=uuid4(), amount_microcredits=1, memo="seed", actor=None)
    assert made.state == TransferState.POSTED
    assert services.totals().issued == 1_000_001


@pytest.mark.parametrize("amount", [0, -1, 1.5, True, "7", MAX_MICROCREDITS + 1])
def test_amounts_are_whole_and_positive(world: World, amount: Any) -> None:
    with pytest.raises(InvalidAmount):
        world.fund(amount)
    with pytest.raises(InvalidAmount):
        world.escrow(amount)
    with pytest.raises(InvalidAmount):
        world.grant(world.ann, amount)


def test_issuance_stops_at_the_most_that_64_bits_hold_safely(world: World) -> None:
    world.fund(MAX_MICROCREDITS - 1_000_000)
    with pytest.raises(InvalidAmount, match="can be issued in total"):
        world.fund(1)
    assert services.totals().issued == MAX_MICROCREDITS


def test_escrow_moves_money_out_of_the_treasury(world: World) -> None:
    escrow = world.escrow(400)
    services.add_to_escrow(transfer_id=uuid4(), reference=escrow, amount_microcredits=50)
    assert services.escrow_balance(escrow) == services.EscrowBalance(posted=450, reserved=0, available=450)
    assert services.totals().treasury == 1_000_000 - 450


def test_an_empty_treasury_opens_no_escrow(world: World) -> None:
    with pytest.raises(InsufficientTreasury) as refusal:
        world.escrow(1_000_001)
    assert (refusal.value.available, refusal.value.needed) == (1_000_000, 1_000_001)
    assert not Account.objects.filter(kind=AccountKind.ESCROW).exists()


def test_an_escrow_opens_once(world: World) -> None:
    escrow = world.escrow(10)
    with pytest.raises(EscrowExists):
        services.open_escrow(transfer_id=uuid4(), reference=escrow, amount_microcredits=10)
    assert services.escrow_balance(escrow).posted == 10


def test_unknown_escrow_is_named(world: World) -> None:
    for call in (
        lambda: services.escrow_balance("bounty:none"),
        lambda: services.add_to_escrow(transfer_id=uuid4(), reference="bounty:none", amount_microcredits=1),
        lambda: services.close_escrow(transfer_id=uuid4(), reference="bounty:none"),
        lambda: world.reserve("bounty:none", 1),
    ):
        with pytest.raises(UnknownEscrow, match="bounty:none"):
            call()
    with pytest.raises(UnknownEscrow):
        services.open_escrow(transfer_id=uuid4(), reference="", amount_microcredits=1)


def test_closing_returns_what_is_not_reserved(world: World) -> None:
    escrow = world.escrow(100)
    world.reserve(escrow, 30)
    returned = services.close_escrow(transfer_id=uuid4(), reference=escrow)
    assert returned is not None
    assert returned.amount_microcredits == 70
    assert services.escrow_balance(escrow) == services.EscrowBalance(posted=30, reserved=30, available=0)
    assert services.close_escrow(transfer_id=uuid4(), reference=escrow) is None


def test_a_closed_escrow_takes_nothing_more(world: World) -> None:
    escrow = world.escrow(100)
    services.close_escrow(transfer_id=uuid4(), reference=escrow)
    with pytest.raises(EscrowClosed):
        services.add_to_escrow(transfer_id=uuid4(), reference=escrow, amount_microcredits=1)
    with pytest.raises(EscrowClosed):
        world.reserve(escrow, 1)
    assert violations() == []


def test_what_a_closed_escrow_releases_goes_to_the_treasury(world: World) -> None:
    escrow = world.escrow(100)
    released, awarded, cheat = world.reserve(escrow, 30), world.reserve(escrow, 20), world.reserve(escrow, 10)
    services.close_escrow(transfer_id=uuid4(), reference=escrow)
    services.release_reservation(transfer_id=released.pk)
    assert services.totals().treasury == 1_000_000 - 30

    def book(reservation: Transfer, amount: int) -> Transfer:
        return services.book_award(
            transfer_id=uuid4(),
            reservation_id=reservation.pk,
            user=world.ann,
            amount_microcredits=amount,
            reference="submission:1",
        )

    award, taken_back = book(awarded, 15), book(cheat, 10)
    assert services.totals().treasury == 1_000_000 - 25
    services.reverse_award(transfer_id=taken_back.pk, reversal_id=uuid4(), reason="copied")
    assert services.totals().treasury == 1_000_000 - 15
    services.vest_award(transfer_id=award.pk)
    assert services.escrow_balance(escrow).posted == 0
    assert services.balance(world.ann).available == 15
    assert violations() == []


def test_reservations_cannot_exceed_the_escrow(world: World) -> None:
    escrow = world.escrow(100)
    world.reserve(escrow, 60)
    with pytest.raises(EscrowExhausted) as refusal:
        world.reserve(escrow, 41)
    assert (refusal.value.available, refusal.value.needed) == (40, 41)
    world.reserve(escrow, 40)
    assert services.escrow_balance(escrow).available == 0
