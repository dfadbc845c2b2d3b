"""The price book: versions never change, the one in force is found, the unpriced is refused."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.ledger.errors import IdConflict, InvalidAmount, MaintainerOnly, RetroactivePrice, Unpriced
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import active_price, publish_price
from gainshare.ledger.pricing import Usage, bill
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db


def publish(
    effective_at: datetime, *, output: Any = 3, model: str = "tiny", actor: User | None = None
) -> PriceVersion:
    return publish_price(
        model=model, effective_at=effective_at, cached_input=1, fresh_input=2, output=output, actor=actor
    )


def test_unpriced_model_is_refused() -> None:
    with pytest.raises(Unpriced) as refusal:
        active_price("tiny", timezone.now())
    assert refusal.value.status == 503


def test_the_latest_version_that_has_begun_is_in_force() -> None:
    now = timezone.now()
    first = publish(now - timedelta(days=1))
    second = publish(now + timedelta(hours=25), output=9)
    publish(now, model="other")
    assert active_price("tiny", now) == first
    assert active_price("tiny", now + timedelta(hours=25)) == second
    with pytest.raises(Unpriced):
        active_price("tiny", now - timedelta(days=2))


def test_a_version_prices_a_bill() -> None:
    version = publish(timezone.now(), output=5_000_000)
    assert bill(Usage(0, 0, 4), version).total == 20


def test_publishing_the_same_version_again_returns_it() -> None:
    now = timezone.now()
    assert publish(now) == publish(now)
    assert PriceVersion.objects.count() == 1


def test_other_prices_at_the_same_time_conflict() -> None:
    now = timezone.now()
    publish(now)
    with pytest.raises(IdConflict):
        publish(now, output=4)


def test_a_later_version_cannot_take_effect_in_the_past() -> None:
    now = timezone.now()
    publish(now - timedelta(days=2))
    with pytest.raises(RetroactivePrice):
        publish(now - timedelta(days=1), output=9)


@pytest.mark.parametrize("output", [-1, 1.5, True, 10**18 + 1])
def test_prices_are_whole_and_not_negative(output: Any) -> None:
    with pytest.raises(InvalidAmount):
        publish(timezone.now(), output=output)


def test_only_maintainers_publish() -> None:
    with pytest.raises(MaintainerOnly):
        publish(timezone.now(), actor=make_user())
    assert publish(timezone.now(), actor=make_user("maintainer")).actor is not None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_priceversion SET output = 0",
        "DELETE FROM ledger_priceversion",
        "TRUNCATE ledger_priceversion CASCADE",
    ],
)
def test_the_database_refuses_to_change_a_price(statement: str) -> None:
    publish(timezone.now())
    connection.check_constraints()  # TRUNCATE is not tried while foreign keys wait for their check
    with pytest.raises(IntegrityError, match="is refused"), transaction.atomic():
        connection.cursor().execute(statement)
    assert PriceVersion.objects.get().output == 3
