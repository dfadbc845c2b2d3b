"""The treasury's page: permissions, issuing credits once, and movements."""

import re
from uuid import uuid4

import pytest
from django.test import Client
from pytest_django import Settings

from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from gainshare.ledger.models import Transfer
from tests.gainshare.ledger.ledger_world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    return World(funded=3_000_000)


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def html_of(user: User, path: str = "/treasury/", status: int = 200) -> str:
    response = client_of(user).get(path)
    assert response.status_code == status
    return response.content.decode()


def confirmed(client: Client, sent: dict[str, str]) -> dict[str, str]:
    """The form that confirms a large amount; nothing has moved by then."""
    before = ledger.totals().issued
    html = client.post("/treasury/", sent).content.decode()
    found = re.search(r'name="confirmed" value="([0-9,]+)"', html)
    assert found is not None and "Is this right?" in html and ledger.totals().issued == before
    return {**sent, "confirmed": found[1]}


def test_only_maintainers_see_the_treasury(world: World) -> None:
    assert Client().get("/treasury/").headers["Location"] == "/login/?next=/treasury/"
    assert "Only maintainers" in html_of(world.ann, status=403)
    assert 'href="/treasury/"' not in html_of(world.ann, "/")
    assert 'href="/treasury/"' in html_of(world.maintainer, "/")
    sent = {"transfer_id": str(uuid4()), "amount": "5"}
    assert client_of(world.ann).post("/treasury/", sent).status_code == 403
    assert ledger.totals().issued == 3_000_000


def test_a_maintainer_issues_credits_once_however_often_the_form_is_sent(world: World) -> None:
    client = client_of(world.maintainer)
    form = client.get("/treasury/").content.decode()
    found = re.search(r'name="transfer_id" value="([0-9a-f-]{36})"', form)
    assert found is not None
    sent = {"transfer_id": found[1], "amount": "1,250.5", "memo": "May"}
    sent = confirmed(client, sent)
    for _ in range(2):
        response = client.post("/treasury/", sent, follow=True)
        assert response.redirect_chain == [("/treasury/", 302)]
        assert "1,250.5 credits were issued" in response.content.decode()
    assert ledger.totals().treasury == 1_253_500_000
    made = Transfer.objects.get(pk=found[1])
    assert (made.memo, made.actor) == ("May", world.maintainer)
    html = html_of(world.maintainer)
    assert "+1,250.5" in html and "May" in html and world.maintainer.username in html
    assert found[1] not in html  # a form opened again has another id, so it issues again


def test_the_same_form_with_another_amount_moves_nothing_and_says_so(world: World) -> None:
    sent = {"transfer_id": str(uuid4()), "amount": "5", "memo": ""}
    client = client_of(world.maintainer)
    client.post("/treasury/", confirmed(client, sent))
    response = client.post("/treasury/", {**sent, "amount": "6"})
    html = response.content.decode()
    assert response.status_code == 400 and "already sent with another amount" in html
    assert ledger.totals().issued == 8_000_000
    assert 'value="6"' in html and sent["transfer_id"] not in html
    found = re.search(r'name="transfer_id" value="([0-9a-f-]{36})"', html)
    assert found is not None
    client.post("/treasury/", confirmed(client, {**sent, "amount": "6", "transfer_id": found[1]}))
    assert ledger.totals().issued == 14_000_000


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"amount": ""}, "required"),
        ({"amount": "0"}, "more than 0"),
        ({"amount": "-3"}, "at most six decimals"),
        ({"amount": "0,5"}, "0.5 instead"),
        ({"amount": "1,5"}, "1.5 instead"),
        ({"amount": "1.000,50"}, "1000.50 instead"),
        ({"amount": "1,500"}, "in two ways"),
        ({"amount": "1.500"}, "in two ways"),
        ({"amount": "0.0000001"}, "at most six decimals"),
        ({"amount": "9" * 40}, "at most 1,000,000,000,000 credits"),
        ({"amount": "1000000000000"}, "can be issued in total"),
        ({"memo": "x" * 301}, "at most 300 characters"),
        ({"transfer_id": "no id"}, "damaged in transit"),
    ],
)
def test_what_cannot_be_issued_is_refused_with_the_reason(
    world: World, changes: dict[str, str], complaint: str
) -> None:
    sent = {"transfer_id": str(uuid4()), "amount": "5", "memo": "kept", **changes}
    response = client_of(world.maintainer).post("/treasury/", sent)
    html = response.content.decode()
    assert response.status_code == 400 and complaint in html
    assert sent["memo"] in html
    assert ledger.totals().issued == 3_000_000


def test_every_movement_is_shown_with_its_other_end(world: World) -> None:
    world.grant(world.ann, 1_000_000, memo="Welcome")
    reference = world.escrow(500_000)
    ledger.close_escrow(transfer_id=uuid4(), reference=reference)
    html = html_of(world.maintainer)
    assert "Welcome" in html and world.ann.username in html and "\N{MINUS SIGN}1<" in html
    assert html.count(f"/bounties/{reference.partition(':')[2]}/") == 2
    assert "\N{MINUS SIGN}0.5<" in html and "+0.5<" in html


def test_many_movements_have_pages_and_cost_no_more_queries(
    world: World, django_assert_max_num_queries: pytest.FixtureRequest
) -> None:
    for _ in range(55):
        world.grant(world.bob, 1_000)
    client = client_of(world.maintainer)
    with django_assert_max_num_queries(12):  # type: ignore[operator]  # the fixture is a context manager's factory
        first = client.get("/treasury/").content.decode()
    assert "Page 1 of 2" in first and first.count(world.bob.username) == 50
    assert "Issued" in client.get("/treasury/?page=2").content.decode()


def test_a_large_sum_is_spelled_out_and_asked_about_before_it_moves(world: World) -> None:
    client, sent = (
        client_of(world.maintainer),
        {"transfer_id": str(uuid4()), "amount": "1500", "memo": "kept"},
    )
    html = client.post("/treasury/", sent).content.decode()
    assert "1,500 credits = 1,500,000,000 micro-credits: 500 times all 3 credits" in html
    assert 'value="1500"' in html and "kept" in html and sent["transfer_id"] in html
    assert ledger.totals().issued == 3_000_000
    sent = confirmed(client, sent)
    # Confirmed is this amount: another one is asked about again, and an invented confirmation counts for nothing.
    for other in ({**sent, "amount": "15000"}, {**sent, "confirmed": "yes"}, {**sent, "confirmed": ""}):
        assert "Is this right?" in client.post("/treasury/", other).content.decode()
    assert ledger.totals().issued == 3_000_000
    message = client.post("/treasury/", sent, follow=True).content.decode()
    assert "1,500 credits were issued (1,500,000,000 micro-credits)" in message
    assert ledger.totals().issued == 1_503_000_000


def test_what_is_large_is_a_setting(world: World, settings: Settings) -> None:
    settings.LARGE_SUM_PERCENT = 100
    client = client_of(world.maintainer)
    client.post("/treasury/", {"transfer_id": str(uuid4()), "amount": "3", "memo": ""})
    assert ledger.totals().issued == 6_000_000
    settings.LARGE_SUM_PERCENT = 49
    client.post("/treasury/", {"transfer_id": str(uuid4()), "amount": "3", "memo": ""})
    assert ledger.totals().issued == 6_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1500", "1,500 credits = 1,500,000,000 micro-credits"),
        ("0,5", "0.5 instead"),
        ("0", "more than 0"),
        ("9" * 5000, "at most six decimals"),
    ],
)
def test_a_form_can_ask_how_an_amount_is_read(text: str, said: str) -> None:
    answer = Client().get("/credits/read/", {"text": text}, HTTP_ACCEPT_LANGUAGE="de-DE")
    assert answer.status_code == 200 and said in answer.json()["text"]


def test_rest_takes_whole_numbers_only(world: World) -> None:
    for amount in ("1.000", "1,5", "1_000", "1000", 1000.0, 1.5, True):
        sent = {"transfer_id": str(uuid4()), "amount_microcredits": amount}
        answer = client_of(world.maintainer).post(
            "/api/v1/treasury/fund/", sent, content_type="application/json"
        )
        assert answer.status_code == 400 and "micro-credits as a whole number" in answer.content.decode()
    assert ledger.totals().issued == 3_000_000
