"""Cost of nodes beside revenue, by day and model."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Node, NodeState
from gainshare.capacity.scaling.costs import day_start
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.serving_cost import serving_days
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import publish_price
from tests.gainshare.capacity.pool_world import MODEL, make_class, make_host, make_user

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def used(user: User, at: datetime, *, prompt: int, completion: int, charged: int, model: str = MODEL) -> None:
    price = PriceVersion.objects.filter(model=model).first() or publish_price(
        actor=make_user(), model=model, effective_at=at, cached_input=1, fresh_input=1, output=1
    )
    record = UsageRecord.objects.create(
        user=user, key_prefix="0" * 12, endpoint="chat/completions", model=model, is_stream=True,
        status=RequestStatus.COMPLETED, max_tokens=10_000_000, prompt_tokens=prompt, completion_tokens=completion,
        price=price, hold_microcredits=charged, billed_microcredits=charged, charged_microcredits=charged,
        expires_at=at, finished_at=at,
    )  # fmt: skip
    UsageRecord.objects.filter(pk=record.pk).update(created_at=at)


def ran(since: datetime, until: datetime | None, *, price: int) -> None:
    host = make_host(make_class(f"class-{price}", price=price))
    node = Node.objects.create(
        host=host, device=0, model=MODEL, reason="test", price_microcredits_per_device_hour=price,
        state=NodeState.READY if until is None else NodeState.ENDED, ended_at=until,
    )  # fmt: skip
    Node.objects.filter(pk=node.pk).update(created_at=since)


def test_cost_stands_beside_tokens_and_revenue() -> None:
    now = day_start(timezone.now()) + 10 * HOUR
    user = make_user("contributor")
    ran(now - 2 * HOUR, None, price=3_000_000)
    ran(now - 4 * HOUR, now - 3 * HOUR, price=1_000_000)
    used(user, now - HOUR, prompt=900_000, completion=100_000, charged=4_000_000)
    used(user, now - HOUR, prompt=1_000_000, completion=0, charged=5_000_000)
    used(user, now - 24 * HOUR, prompt=5, completion=5, charged=7, model="static")
    today, yesterday = serving_days(days=2, now=now)
    assert today.day == now.date() and today.model == MODEL
    assert today.cost_by_class == {"class-1000000": 1_000_000, "class-3000000": 6_000_000}
    assert (today.cost_microcredits, today.tokens, today.requests) == (7_000_000, 2_000_000, 2)
    assert (today.revenue_microcredits, today.margin_microcredits) == (9_000_000, 2_000_000)
    assert (today.cost_per_million_tokens, today.revenue_per_million_tokens) == (3_500_000, 4_500_000)
    assert (yesterday.model, yesterday.cost_microcredits, yesterday.revenue_microcredits) == ("static", 0, 7)
    assert len(serving_days(days=1, now=now)) == 1


def test_a_day_without_tokens_has_no_cost_for_a_million() -> None:
    now = day_start(timezone.now()) + 10 * HOUR
    ran(now - HOUR, None, price=3_000_000)
    (today,) = serving_days(days=1, now=now)
    assert (today.cost_microcredits, today.cost_per_million_tokens) == (3_000_000, None)


def asked(user: User, **query: Any) -> Any:
    client = APIClient()
    _, raw = create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client.get("/api/v1/capacity/cost/", query)


def test_maintainers_alone_read_it() -> None:
    ran(timezone.now() - HOUR, None, price=3_000_000)
    assert asked(make_user("contributor")).status_code == 403
    rows = asked(make_user(), days=3).json()
    assert rows[0]["model"] == MODEL and rows[0]["cost_per_million_tokens"] is None
    assert sum(row["cost_microcredits"] for row in rows) == pytest.approx(3_000_000, rel=0.01)
    assert asked(make_user(), days=0).status_code == 400
    assert asked(make_user(), days="many").status_code == 400
