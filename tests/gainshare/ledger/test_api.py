"""REST of the ledger: users' credits, and operations for maintainers only."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.ledger import services
from tests.gainshare.ledger.ledger_world import World, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    return World()


def client_of(user: User, *scopes: str) -> APIClient:
    _, raw = create_api_key(user=user, name="test", scopes=list(scopes))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


@pytest.fixture
def maintainer(world: World) -> APIClient:
    return client_of(world.maintainer, "read", "maintain")


def test_credits_shows_balance_lots_and_transfers(world: World) -> None:
    world.grant(world.ann, 100, source="starter", priority=1, memo="welcome")
    world.book(world.ann, world.escrow(50), 30)
    world.hold(world.ann, 20)
    world.grant(world.bob, 77)
    answer = client_of(world.ann, "read").get("/api/v1/credits/")
    assert answer.status_code == 200
    body = answer.json()
    assert body["balance"] == {"available": 80, "held": 20, "unvested": 30, "owed": 0}
    assert [(lot["source"], lot["available_microcredits"]) for lot in body["lots"]] == [("starter", 80)]
    assert sorted(transfer["kind"] for transfer in body["transfers"]) == ["award", "grant", "usage"]
    assert 77 not in [transfer["amount_microcredits"] for transfer in body["transfers"]]


def test_credits_need_the_scope_read(world: World) -> None:
    assert APIClient().get("/api/v1/credits/").status_code == 401
    assert client_of(world.ann, "inference").get("/api/v1/credits/").status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/api/v1/treasury/"),
        ("post", "/api/v1/treasury/fund/"),
        ("post", "/api/v1/grants/"),
        ("post", "/api/v1/prices/"),
        ("get", "/api/v1/audit/"),
    ],
)
def test_the_rest_is_for_maintainers_with_the_scope_maintain(world: World, method: str, path: str) -> None:
    before = services.totals()
    assert getattr(APIClient(), method)(path, {}).status_code == 401
    for client in (client_of(world.ann, "read", "submit"), client_of(world.maintainer, "read")):
        answer = getattr(client, method)(path, {})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "permission_denied"
    assert services.totals() == before


def test_a_demoted_maintainers_key_maintains_no_more(world: World, maintainer: APIClient) -> None:
    assert maintainer.get("/api/v1/treasury/").status_code == 200
    User.objects.filter(pk=world.maintainer.pk).update(role="contributor")
    assert maintainer.get("/api/v1/treasury/").status_code == 403


def test_funding_is_repeatable_by_its_id(maintainer: APIClient) -> None:
    body = {"transfer_id": str(uuid4()), "amount_microcredits": 500, "memo": "first"}
    answers = [maintainer.post("/api/v1/treasury/fund/", body, format="json") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"] == body["transfer_id"]
    assert maintainer.get("/api/v1/treasury/").json()["treasury"] == 1_000_500
    other = maintainer.post("/api/v1/treasury/fund/", {**body, "amount_microcredits": 501}, format="json")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "id_conflict")


@pytest.mark.parametrize("amount", [0, -5, 1.5, "many", None, 10**19])
def test_amounts_that_are_none_are_explained(maintainer: APIClient, amount: Any) -> None:
    answer = maintainer.post("/api/v1/treasury/fund/", {"amount_microcredits": amount}, format="json")
    assert answer.status_code == 400
    assert "amount_microcredits" in answer.json()["error"]["details"]


def test_grants(world: World, maintainer: APIClient) -> None:
    expires_at = timezone.now() + timedelta(days=3)
    body = {
        "username": world.ann.username,
        "amount_microcredits": 40,
        "source": "thanks",
        "priority": 5,
        "expires_at": expires_at.isoformat(),
        "memo": "for the docs",
    }
    answer = maintainer.post("/api/v1/grants/", body, format="json")
    assert answer.status_code == 201
    assert (answer.json()["source"], answer.json()["priority"]) == ("thanks", 5)
    assert services.balance(world.ann).available == 40
    unknown = maintainer.post("/api/v1/grants/", {**body, "username": "nobody"}, format="json")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    too_much = maintainer.post("/api/v1/grants/", {**body, "amount_microcredits": 10**7}, format="json")
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (409, "insufficient_treasury")


def test_prices_are_public_and_published_by_maintainers(maintainer: APIClient) -> None:
    body = {"model": "tiny", "cached_input": 1, "fresh_input": 2, "output": 3}
    made = maintainer.post("/api/v1/prices/", body, format="json")
    assert made.status_code == 201
    maintainer.post("/api/v1/prices/", {**body, "model": "other"}, format="json")
    listed = APIClient().get("/api/v1/prices/", {"model": "tiny"}).json()
    assert (listed["count"], listed["results"][0]) == (1, made.json())
    assert APIClient().get("/api/v1/prices/").json()["count"] == 2
    same_time = {**body, "effective_at": made.json()["effective_at"]}
    assert maintainer.post("/api/v1/prices/", same_time, format="json").status_code == 201
    conflict = maintainer.post("/api/v1/prices/", {**same_time, "output": 4}, format="json")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "id_conflict")
    late = {**body, "effective_at": (timezone.now() - timedelta(days=1)).isoformat(), "output": 4}
    assert (
        maintainer.post("/api/v1/prices/", late, format="json").json()["error"]["code"] == "retroactive_price"
    )


def test_the_audit_is_served_whole(maintainer: APIClient) -> None:
    body = maintainer.get("/api/v1/audit/").json()
    assert body["holds"] is True
    assert {"name", "value", "holds", "detail"} == set(body["invariants"][0])
    assert "all_entries_sum_to_zero" in [invariant["name"] for invariant in body["invariants"]]


def test_the_admin_shows_the_ledger_and_changes_nothing(world: World, client: Any) -> None:
    world.spend(world.ann, 0)
    world.grant(world.ann, 5)
    admin = make_user()
    admin.is_staff = admin.is_superuser = True
    admin.save()
    client.force_login(admin)
    for table in ("account", "transfer", "entry", "hold", "reversal", "priceversion", "seal"):
        assert client.get(f"/admin/ledger/{table}/").status_code == 200, table
        assert client.get(f"/admin/ledger/{table}/add/").status_code == 403, table
    account = services.lots_of(world.ann).get()
    page = client.get(f"/admin/ledger/account/{account.pk}/change/")
    assert page.status_code == 200
    assert b'name="_save"' not in page.content
    assert client.post(f"/admin/ledger/account/{account.pk}/change/", {"priority": 1}).status_code == 403
