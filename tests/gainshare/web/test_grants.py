"""Granting credits on the site: by maintainers, once, to people there are, with what the treasury has."""

import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from gainshare.ledger.models import Transfer
from tests.gainshare.ledger.ledger_world import World

pytestmark = pytest.mark.django_db
PATH = "/treasury/grants/"


@pytest.fixture
def world() -> World:
    return World(funded=100_000_000)


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def grant(world: World, **changes: str) -> dict[str, str]:
    return {"transfer_id": str(uuid4()), "username": world.ann.username, "amount": "12.5", **changes}


def test_a_maintainer_grants_credits_once_however_often_the_form_is_sent(world: World) -> None:
    client = client_of(world.maintainer)
    assert PATH in client.get("/treasury/").content.decode()
    found = re.search(r'name="transfer_id" value="([0-9a-f-]{36})"', client.get(PATH).content.decode())
    assert found is not None
    day = (timezone.now() + timedelta(days=40)).date()
    sent = grant(world, transfer_id=found[1], memo="Thank you", expires_on=day.isoformat())
    for _ in range(2):
        html = client.post(PATH, sent, follow=True).content.decode()
        assert f"12.5 credits were granted to {world.ann.username} (12,500,000 micro-credits)" in html
    (lot,) = ledger.lots_of(world.ann)
    assert lot.posted_microcredits == 12_500_000
    assert lot.expires_at == datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert Transfer.objects.get(pk=found[1]).actor == world.maintainer
    assert "Thank you" in client_of(world.ann).get("/credits/").content.decode()
    other = client.post(PATH, {**sent, "amount": "13"})
    assert other.status_code == 400 and "already sent for another grant" in other.content.decode()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"username": "nobody"}, "There is no user with this name"),
        ({"username": ""}, "required"),
        ({"amount": "12,5"}, "12.5 instead"),
        ({"amount": "101"}, "The treasury has only 100 credits, and this needs 101 credits"),
        ({"expires_on": "2020-01-01"}, "in the past"),
        ({"expires_on": "soon"}, "valid date"),
    ],
)
def test_what_cannot_be_granted_is_refused_with_the_reason(
    world: World, changes: dict[str, str], complaint: str
) -> None:
    response = client_of(world.maintainer).post(PATH, grant(world, **changes))
    assert response.status_code == 400 and complaint in response.content.decode()
    assert ledger.totals().wallets == 0


def test_a_purchase_names_its_payment_which_gives_credits_once(world: World) -> None:
    client = client_of(world.maintainer)
    client.post(PATH, grant(world, payment="Invoice 7"))
    (lot,) = ledger.lots_of(world.ann)
    assert lot.source == "purchase" and "purchase of invoice 7" in client.get(PATH).content.decode()
    again = client.post(PATH, grant(world, payment="invoice 7"))
    assert again.status_code == 400 and "already gave credits" in again.content.decode()
    assert ledger.totals().wallets == 12_500_000


def test_a_large_grant_is_asked_about(world: World) -> None:
    client, sent = client_of(world.maintainer), grant(world, amount="50")
    html = client.post(PATH, sent).content.decode()
    assert "50 credits = 50,000,000 micro-credits: 50 % of all 100 credits" in html
    assert world.ann.username in html and ledger.totals().wallets == 0
    client.post(PATH, {**sent, "confirmed": "50000000"})
    assert ledger.totals().wallets == 50_000_000


def test_only_maintainers_grant(world: World) -> None:
    assert Client().get(PATH).headers["Location"] == f"/login/?next={PATH}"
    for send in (client_of(world.ann).get, client_of(world.ann).post):
        assert send(PATH, grant(world)).status_code == 403
    assert ledger.totals().wallets == 0
