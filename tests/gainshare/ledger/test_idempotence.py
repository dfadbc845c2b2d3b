"""The same id with the same content is the same posting; with other content it conflicts. Nothing moves twice."""

from collections.abc import Callable
from datetime import UTC, timedelta
from datetime import timezone as fixed
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from gainshare.ledger import services
from gainshare.ledger.errors import IdConflict
from gainshare.ledger.models import Entry, Transfer
from tests.gainshare.ledger.ledger_world import World, violations

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    return World()


def calls(world: World) -> list[tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]]:
    """Per posting call: what to call, its content, and for each other content the field that must be named."""
    escrow = world.escrow(1_000)
    other_escrow = world.escrow(1_000)
    reservation = world.reserve(escrow, 100)
    tomorrow = timezone.now() + timedelta(days=1)
    return [
        (
            services.fund_treasury,
            {"amount_microcredits": 5, "memo": "a", "actor": world.maintainer},
            {"amount_microcredits": 6},
        ),
        (
            services.open_escrow,
            {"reference": f"bounty:{uuid4()}", "amount_microcredits": 5},
            {"reference": escrow, "amount_microcredits": 6},
        ),
        (
            services.add_to_escrow,
            {"reference": escrow, "amount_microcredits": 5},
            {"reference": other_escrow, "amount_microcredits": 6},
        ),
        (
            services.reserve_award,
            {"escrow_reference": escrow, "amount_microcredits": 5, "reference": "submission:1"},
            {"escrow_reference": other_escrow, "amount_microcredits": 6, "reference": "submission:2"},
        ),
        (
            services.book_award,
            {
                "reservation_id": reservation.pk,
                "user": world.ann,
                "amount_microcredits": 5,
                "reference": "submission:1",
            },
            {
                "reservation_id": uuid4(),
                "user": world.bob,
                "amount_microcredits": 6,
                "reference": "submission:2",
            },
        ),
        (
            services.grant_credits,
            {
                "user": world.ann,
                "amount_microcredits": 5,
                "source": "grant",
                "priority": 7,
                "expires_at": tomorrow,
            },
            {
                "user": world.bob,
                "amount_microcredits": 6,
                "source": "gift",
                "priority": 8,
                "expires_at": tomorrow + timedelta(days=1),
            },
        ),
        (services.close_escrow, {"reference": other_escrow}, {"reference": escrow}),
    ]


@pytest.mark.parametrize("index", range(7))
def test_an_id_posts_once(world: World, index: int) -> None:
    call, content, others = calls(world)[index]
    transfer_id = uuid4()
    first = call(transfer_id=transfer_id, **content)
    entries, transfers, totals = Entry.objects.count(), Transfer.objects.count(), services.totals()
    assert call(transfer_id=transfer_id, **content).pk == first.pk
    for field, other in others.items():
        with pytest.raises(IdConflict, match=str(transfer_id)):
            call(transfer_id=transfer_id, **{**content, field: other})
    assert (Entry.objects.count(), Transfer.objects.count()) == (entries, transfers)
    assert services.totals() == totals
    assert violations() == []


def test_an_id_of_another_kind_conflicts(world: World) -> None:
    made = world.fund(5)
    with pytest.raises(IdConflict, match="kind fund"):
        world.grant(world.ann, 5, transfer_id=made.pk)


def test_the_memo_is_a_remark_and_not_content(world: World) -> None:
    transfer_id = uuid4()
    for memo in ("first", "second"):
        made = services.fund_treasury(transfer_id=transfer_id, amount_microcredits=5, memo=memo, actor=None)
    assert made.memo == "first"


def test_the_same_moment_in_another_time_zone_is_the_same_content(world: World) -> None:
    transfer_id, moment = uuid4(), timezone.now() + timedelta(days=1)
    first = world.grant(world.ann, 5, transfer_id=transfer_id, expires_at=moment.astimezone(UTC))
    elsewhere = moment.astimezone(fixed(timedelta(hours=9)))
    assert world.grant(world.ann, 5, transfer_id=transfer_id, expires_at=elsewhere) == first


def test_a_hold_id_holds_once_whatever_the_clock_says(world: World) -> None:
    world.grant(world.ann, 100)
    hold_id = uuid4()
    first = world.hold(world.ann, 60, hold_id=hold_id)
    again = world.hold(world.ann, 60, hold_id=hold_id, expires_at=timezone.now() + timedelta(days=3))
    assert (again.pk, again.expires_at) == (first.pk, first.expires_at)
    for user, amount in ((world.bob, 60), (world.ann, 59)):
        with pytest.raises(IdConflict):
            world.hold(user, amount, hold_id=hold_id)
    services.settle_hold(hold_id=hold_id, amount_microcredits=10)
    assert world.hold(world.ann, 60, hold_id=hold_id).settled == 10  # a late repetition finds it resolved
    assert services.balance(world.ann) == services.Balance(available=90, held=0, unvested=0, owed=0)


def test_a_repetition_succeeds_when_the_money_is_gone(world: World) -> None:
    transfer_id = uuid4()
    first = world.grant(world.ann, 1_000_000, transfer_id=transfer_id)
    assert services.totals().treasury == 0
    assert world.grant(world.ann, 1_000_000, transfer_id=transfer_id) == first
