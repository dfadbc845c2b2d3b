"""Drafts: the last month's requests under prices that are not published."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from gainshare.accounts.services import create_api_key
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.prices import drafts
from gainshare.gateway.prices.drafts import draft_cost
from gainshare.ledger.errors import InvalidAmount
from gainshare.ledger.models import PriceVersion
from gainshare.ledger.price_book import RISE_NOTICE, PriceTable
from tests.gainshare.gateway.charged_world import GB_S, PRICES, PROMPT, Charged, over_midnight
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db
PLAIN = PriceTable(**PRICES)


@pytest.fixture
def charged() -> Charged:
    charged = Charged()
    price = charged.price(**PRICES)
    charged.settled(price, over_midnight())
    charged.settled(price, Metered(), status=RequestStatus.CANCELLED)
    return charged


def test_the_price_in_force_costs_what_was_billed(charged: Charged) -> None:
    cost = draft_cost(model="tiny", table=PLAIN, now=timezone.now())
    assert (cost.requests, cost.is_complete, cost.without_hours) == (2, True, 0)
    assert cost.billed_microcredits == cost.drafted_microcredits == 6 + 40
    assert (cost.difference_microcredits, cost.dearer_requests, cost.rises) == (0, 0, ())
    assert cost.effective_at == cost.until


def test_a_draft_bills_windows_memory_and_long_context_from_the_rows(charged: Charged) -> None:
    table = replace(
        PLAIN,
        off_peak_windows=[[22, 6, 500_000]],
        memory_tiers=[[0, 1]],
        memory_share_ppm=10**6,
        long_above=19,
        long_output=10**6,
    )
    cost = draft_cost(model="tiny", table=table, now=timezone.now())
    items = {each.item: (each.billed_microcredits, each.drafted_microcredits) for each in cost.items}
    # 6 of 10 output tokens came at 22 o'clock; the one above 19 is among them, and half a micro-credit is floored
    assert items == {
        "cached_input": (0, 0), "fresh_input": (6, 6), "output": (40, 28), "long_output": (0, 0), "memory": (0, 3),
    }  # fmt: skip
    assert cost.difference_microcredits == -9
    assert set(cost.rises) == {"long_output", "memory_share_ppm", "memory_tiers"}
    assert cost.effective_at == cost.until + RISE_NOTICE
    assert PriceVersion.objects.count() == 1  # it published nothing


def test_only_the_last_month_of_the_model_counts(charged: Charged) -> None:
    old = UsageRecord.objects.first()
    assert old is not None
    UsageRecord.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=31))
    assert draft_cost(model="tiny", table=PLAIN, now=timezone.now()).requests == 1
    unused = draft_cost(model="other", table=PLAIN, now=timezone.now())
    assert (unused.requests, unused.rises, unused.effective_at) == (0, (), unused.until)


def test_rows_without_hours_cost_the_dearest_one(charged: Charged) -> None:
    UsageRecord.objects.update(prompt_hour=None, output_hours=[])
    table = replace(PLAIN, off_peak_windows=[[22, 6, 500_000]])
    cost = draft_cost(model="tiny", table=table, now=timezone.now())
    assert (cost.without_hours, cost.drafted_microcredits) == (1, 46)


def test_very_many_requests_are_cut_and_it_says_so(charged: Charged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "MOST_REQUESTS", 1)
    cost = draft_cost(model="tiny", table=PLAIN, now=timezone.now())
    assert (cost.requests, cost.is_complete) == (1, False)


def test_terms_that_are_none_are_refused(charged: Charged) -> None:
    with pytest.raises(InvalidAmount, match="overlap"):
        draft_cost(
            model="tiny", table=replace(PLAIN, off_peak_windows=[[1, 5, 0], [4, 6, 0]]), now=timezone.now()
        )


def client_of(charged: Charged, role: str) -> APIClient:
    user = make_user(role)
    client = APIClient()
    _, raw = create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def test_rest_answers_maintainers_only(charged: Charged) -> None:
    body = {"model": "tiny", **PRICES, "output": 5_000_000, "off_peak_windows": [[22, 6, 500_000]]}
    maintainer = client_of(charged, "maintainer")
    answer = maintainer.post("/api/v1/prices/draft/", body, format="json")
    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert (found["requests"], found["billed_microcredits"], found["drafted_microcredits"]) == (2, 46, 6 + 35)
    assert (found["rises"], found["difference_microcredits"]) == (["output"], -5)
    assert client_of(charged, "contributor").post("/api/v1/prices/draft/", body).status_code == 403
    assert APIClient().post("/api/v1/prices/draft/", body).status_code == 401
    bad = maintainer.post("/api/v1/prices/draft/", {**body, "off_peak_windows": [[1, 1, 1]]}, format="json")
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_amount")
    wide = maintainer.post("/api/v1/prices/draft/", {**body, "memory_tiers": [[1, 2, 3]]}, format="json")
    assert "memory_tiers" in wide.json()["error"]["details"]


def test_rest_publishes_every_term_and_a_usage_shows_its_counts(charged: Charged) -> None:
    terms = {"long_above": 9, "off_peak_windows": [[22, 6, 500_000]], "memory_tiers": [[GB_S, 7]]}
    maintainer = client_of(charged, "maintainer")
    made = maintainer.post("/api/v1/prices/", {"model": "tiny", **PRICES, **terms}, format="json")
    assert made.status_code == 201, made.content
    assert {name: made.json()[name] for name in terms} == terms
    assert made.json() in APIClient().get("/api/v1/prices/").json()["results"]
    rise = {
        "model": "tiny",
        **PRICES,
        **terms,
        "memory_share_ppm": 5,
        "effective_at": made.json()["effective_at"],
    }
    refused = maintainer.post("/api/v1/prices/", {**rise, "effective_at": timezone.now()}, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "rise_too_soon")
    record = charged.settled(PriceVersion.objects.latest("pk"), over_midnight())
    client = APIClient()
    client.force_authenticate(charged.ann)
    shown = client.get(f"/api/v1/usage/{record.pk}/").json()
    assert (shown["prompt_hour"], shown["output_hours"]) == (21, [[21, 0, 4], [22, 0, 6]])
    assert (shown["kv_bytes_per_token"], shown["kv_byte_ms"], shown["counted_prompt_tokens"]) == (
        512,
        3 * GB_S,
        PROMPT,
    )
    assert shown["bill_lines"][2]["parts"] == [[500_000, 6], [1_000_000, 4]]
    assert "parts" not in shown["bill_lines"][1]
