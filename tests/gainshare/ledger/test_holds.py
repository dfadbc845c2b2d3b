"""Holds over lots: the order in which lots are spent, settlement, release, expiry of holds and of lots."""

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from gainshare.ledger import services
from gainshare.ledger.errors import (
    AboveHold,
    HoldResolved,
    IdConflict,
    InsufficientCredits,
    InsufficientTreasury,
    InvalidAmount,
    LedgerError,
    PaymentCounted,
    UnknownHold,
)
from gainshare.ledger.kinds import HoldState, TransferState
from gainshare.ledger.models import Account
from gainshare.ledger.services.grants import _expire_lot
from gainshare.ledger.services.holds import _expire
from tests.gainshare.ledger.ledger_world import World, posted, violations

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    return World()


def in_days(days: float) -> datetime:
    return timezone.now() + timedelta(days=days)


def test_lots_burn_by_priority_then_expiry_then_age(world: World) -> None:
    old = world.grant(world.ann, 10)
    young = world.grant(world.ann, 10)
    late = world.grant(world.ann, 10, expires_at=in_days(9))
    soon = world.grant(world.ann, 10, expires_at=in_days(2))
    first = world.grant(world.ann, 10, priority=1)
    assert [lot.pk for lot in services.lots_of(world.ann)] == [
        lot.pk for lot in (first, soon, late, old, young)
    ]
    world.spend(world.ann, 35)
    assert [posted(lot) for lot in (first, soon, late, old, young)] == [0, 0, 0, 5, 10]


def test_a_hold_spans_lots_and_settles_in_their_order(world: World) -> None:
    first, second = world.grant(world.ann, 30, priority=1), world.grant(world.ann, 100)
    hold = world.hold(world.ann, 80)
    assert services.balance(world.ann) == services.Balance(available=50, held=80, unvested=0, owed=0)
    settled = services.settle_hold(hold_id=hold.pk, amount_microcredits=45, memo="45 used")
    assert (settled.state, settled.settled, settled.memo) == (HoldState.SETTLED, 45, "45 used")
    assert (posted(first), posted(second)) == (0, 85)
    assert services.totals().revenue == 45
    assert violations() == []


def test_settling_within_the_first_lot_voids_the_other_legs(world: World) -> None:
    world.grant(world.ann, 30, priority=1)
    world.grant(world.ann, 100)
    hold = world.hold(world.ann, 80)
    services.settle_hold(hold_id=hold.pk, amount_microcredits=10)
    assert list(hold.legs.order_by("position").values_list("state", "posted_amount")) == [
        (TransferState.POSTED, 10),
        (TransferState.VOIDED, None),
    ]
    assert services.balance(world.ann) == services.Balance(available=120, held=0, unvested=0, owed=0)


def test_settling_zero_releases_everything(world: World) -> None:
    world.grant(world.ann, 30)
    hold = world.hold(world.ann, 30)
    assert services.settle_hold(hold_id=hold.pk, amount_microcredits=0).state == HoldState.SETTLED
    assert services.balance(world.ann).available == 30
    assert services.totals().revenue == 0
    assert violations() == []


def test_a_hold_of_nothing_needs_no_credits(world: World) -> None:
    hold = world.hold(world.ann, 0)
    assert services.settle_hold(hold_id=hold.pk, amount_microcredits=0).settled == 0
    assert violations() == []


def test_holding_more_than_there_is_says_how_much_there_is(world: World) -> None:
    world.grant(world.ann, 30)
    world.hold(world.ann, 12)
    with pytest.raises(InsufficientCredits) as refusal:
        world.hold(world.ann, 19)
    assert (refusal.value.available, refusal.value.needed, refusal.value.status) == (18, 19, 402)
    world.hold(world.ann, 18)


def test_no_one_holds_another_persons_credits(world: World) -> None:
    world.grant(world.ann, 30)
    with pytest.raises(InsufficientCredits):
        world.hold(world.bob, 1)


@pytest.mark.parametrize("amount", [-1, 2.0, False, None])
def test_amounts_are_whole(world: World, amount: Any) -> None:
    world.grant(world.ann, 30)
    hold = world.hold(world.ann, 10)
    with pytest.raises(InvalidAmount):
        world.hold(world.ann, amount)
    with pytest.raises(InvalidAmount):
        services.settle_hold(hold_id=hold.pk, amount_microcredits=amount)


def test_settling_above_the_hold_is_refused(world: World) -> None:
    world.grant(world.ann, 30)
    hold = world.hold(world.ann, 10)
    with pytest.raises(AboveHold):
        services.settle_hold(hold_id=hold.pk, amount_microcredits=11)
    assert services.balance(world.ann).held == 10


def test_a_hold_resolves_once(world: World) -> None:
    world.grant(world.ann, 100)
    settled, voided, expired = (world.hold(world.ann, 10) for _ in range(3))
    services.settle_hold(hold_id=settled.pk, amount_microcredits=4)
    services.void_hold(hold_id=voided.pk)
    assert services.expire_holds(now=in_days(1)) == 1
    with pytest.raises(HoldResolved, match="settled"):
        services.void_hold(hold_id=settled.pk)
    for hold, state in ((voided, "voided"), (expired, "expired")):
        with pytest.raises(HoldResolved, match=state) as refusal:
            services.settle_hold(hold_id=hold.pk, amount_microcredits=1)
        assert refusal.value.state == state
    with pytest.raises(HoldResolved):
        services.void_hold(hold_id=expired.pk)
    assert services.expire_holds(now=in_days(1)) == 0
    assert services.balance(world.ann) == services.Balance(available=96, held=0, unvested=0, owed=0)


def test_resolving_the_same_way_again_changes_nothing(world: World) -> None:
    world.grant(world.ann, 100)
    settled, voided = world.hold(world.ann, 10), world.hold(world.ann, 10)
    for _ in range(2):
        assert services.settle_hold(hold_id=settled.pk, amount_microcredits=4).settled == 4
        assert services.void_hold(hold_id=voided.pk).state == HoldState.VOIDED
    with pytest.raises(IdConflict):
        services.settle_hold(hold_id=settled.pk, amount_microcredits=5)
    assert services.totals().revenue == 4


def test_unknown_holds_are_named(world: World) -> None:
    with pytest.raises(UnknownHold):
        services.settle_hold(hold_id=uuid4(), amount_microcredits=1)
    with pytest.raises(UnknownHold):
        services.void_hold(hold_id=uuid4())


def test_only_overdue_holds_expire(world: World) -> None:
    world.grant(world.ann, 100)
    overdue = world.hold(world.ann, 10, expires_at=timezone.now() + timedelta(seconds=5))
    kept = world.hold(world.ann, 20, expires_at=in_days(1))
    assert services.expire_holds(now=timezone.now()) == 0
    assert services.expire_holds(now=timezone.now() + timedelta(seconds=6)) == 1
    overdue.refresh_from_db()
    kept.refresh_from_db()
    assert (overdue.state, kept.state) == (HoldState.EXPIRED, HoldState.OPEN)
    assert overdue.legs.get().state == TransferState.EXPIRED
    assert services.balance(world.ann) == services.Balance(available=80, held=20, unvested=0, owed=0)
    assert violations() == []


def test_an_overdue_hold_that_no_one_expired_yet_still_settles(world: World) -> None:
    world.grant(world.ann, 100)
    hold = world.hold(world.ann, 10, expires_at=timezone.now() - timedelta(seconds=5))
    assert services.settle_hold(hold_id=hold.pk, amount_microcredits=7).state == HoldState.SETTLED


def test_an_expired_lot_is_not_spendable_even_before_it_is_swept(world: World) -> None:
    lot = world.grant(world.ann, 30, expires_at=in_days(1))
    connection_time = timezone.now
    assert services.balance(world.ann).available == 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "gainshare.ledger.services.grants.timezone.now", lambda: connection_time() + timedelta(days=2)
        )
        assert services.balance(world.ann).available == 0
        with pytest.raises(InsufficientCredits):
            world.hold(world.ann, 1)
    assert posted(lot) == 30


def test_expiry_moves_exactly_the_unused_part_to_breakage(world: World) -> None:
    lot = world.grant(world.ann, 100, expires_at=in_days(1))
    kept = world.grant(world.ann, 50)
    world.spend(world.ann, 30)
    assert services.expire_lots(now=timezone.now()) == 0
    assert services.expire_lots(now=in_days(1.1)) == 1
    assert (posted(lot), posted(kept)) == (0, 50)
    totals = services.totals()
    assert (totals.breakage, totals.revenue) == (70, 30)
    assert services.expire_lots(now=in_days(1.1)) == 0
    assert violations() == []


def test_a_lot_with_an_open_hold_expires_only_in_the_part_not_held(world: World) -> None:
    lot = world.grant(world.ann, 100, expires_at=in_days(1))
    hold = world.hold(world.ann, 60)
    assert services.expire_lots(now=in_days(2)) == 1
    assert (posted(lot), services.totals().breakage) == (60, 40)
    assert services.expire_lots(now=in_days(2)) == 0
    services.settle_hold(hold_id=hold.pk, amount_microcredits=25)
    assert services.expire_lots(now=in_days(2)) == 1
    totals = services.totals()
    assert (posted(lot), totals.breakage, totals.revenue) == (0, 75, 25)
    assert violations() == []


def test_grants_need_a_treasury_a_source_and_a_future(world: World) -> None:
    with pytest.raises(InsufficientTreasury):
        world.grant(world.ann, 1_000_001)
    with pytest.raises(LedgerError, match="in the past"):
        world.grant(world.ann, 1, expires_at=in_days(-1))
    with pytest.raises(LedgerError, match="source"):
        world.grant(world.ann, 1, source="")
    assert not Account.objects.filter(owner=world.ann).exists()


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        ({"source": "purchase"}, "needs its payment"),
        ({"source": "purchase", "payment": "  "}, "needs its payment"),
        ({"source": "purchase", "payment": "7" * 61}, "at most 60"),
        ({"source": "grant", "payment": "invoice 7"}, "Only a grant with the source 'purchase'"),
        ({"source": "award"}, "only the ledger makes such lots"),
        ({"source": "royalty"}, "only the ledger makes such lots"),
    ],
)
def test_only_a_purchase_has_a_payment_and_no_grant_is_an_award(
    world: World, terms: dict[str, str], complaint: str
) -> None:
    with pytest.raises(LedgerError, match=complaint):
        world.grant(world.ann, 1, **terms)
    assert not Account.objects.filter(owner=world.ann).exists()


def test_a_payment_gives_credits_once(world: World) -> None:
    sent = {"transfer_id": uuid4(), "source": "purchase", "payment": "Invoice  7"}
    lot = world.grant(world.ann, 5, **sent)
    assert world.grant(world.ann, 5, **sent) == lot and posted(lot) == 5
    for user, payment in ((world.ann, "Invoice 7"), (world.bob, "invoice 7 ")):
        with pytest.raises(PaymentCounted, match="already gave credits"):
            world.grant(user, 5, source="purchase", payment=payment)
    assert posted(world.grant(world.ann, 5, source="purchase", payment="Invoice 8")) == 5
    assert violations() == []


def test_starter_credits_cannot_be_transferred(world: World) -> None:
    assert not world.grant(world.ann, 1, source="starter").is_transferable
    assert world.grant(world.ann, 1, source="thanks").is_transferable


def test_a_sweep_that_comes_late_leaves_what_was_resolved_meanwhile(world: World) -> None:
    """A sweep lists what is due, then locks one after another: by then another caller may have resolved one."""
    lot = world.grant(world.ann, 30, expires_at=in_days(1))
    hold = world.hold(world.ann, 30)
    assert _expire_lot(lot.pk) is False  # all of it is held
    services.settle_hold(hold_id=hold.pk, amount_microcredits=10)
    assert _expire(hold.pk) is False
    assert _expire(uuid4()) is False
    assert (posted(lot), services.balance(world.ann).available) == (20, 20)
