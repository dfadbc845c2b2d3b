"""Adding to a bounty's escrow on its page."""

import re
from uuid import uuid4

from django.test import Client

from bounty.services.bounties import available_escrow, follow_funds
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import World


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_a_maintainer_adds_credits_once_however_often_the_form_is_sent(world: World) -> None:
    page, path = f"/bounties/{world.bounty.pk}/", f"/bounties/{world.bounty.pk}/escrow/"
    client = client_of(world.mira)
    found = re.search(r'name="transfer_id" value="([0-9a-f-]{36})"', client.get(page).content.decode())
    assert found is not None
    for _ in range(2):
        response = client.post(path, {"transfer_id": found[1], "amount": "2.5"}, follow=True)
        assert "2.5 credits were added" in response.content.decode()
    assert available_escrow(world.bounty) == 102_500_000
    assert client.get(path).headers["Location"] == page


def test_an_exhausted_bounty_opens_again(world: World) -> None:
    ledger.reserve_award(
        transfer_id=uuid4(),
        escrow_reference=world.bounty.escrow_reference,
        amount_microcredits=world.escrow,
        reference="submission:x",
    )
    follow_funds(bounty=world.bounty)
    page = f"/bounties/{world.bounty.pk}/"
    assert "more is added" in client_of(world.mira).get(page).content.decode()
    assert "more is added" not in client_of(world.ann).get(page).content.decode()
    client_of(world.mira).post(f"{page}escrow/", {"transfer_id": str(uuid4()), "amount": "1"})
    world.bounty.refresh_from_db()
    assert world.bounty.state == "open"


def test_an_impossible_amount_is_refused_at_its_field(world: World) -> None:
    path, sent = f"/bounties/{world.bounty.pk}/escrow/", {"transfer_id": str(uuid4())}
    for who, amount, complaint in (
        (world.mira, "some", "at most six decimals"),
        (world.mira, "2,5", "2.5 instead"),
        (world.mira, "1.500", "in two ways"),
        (
            world.mira,
            "100000",
            "The treasury has only 900 credits, and this needs 100,000 credits. Fund the treasury first",
        ),
        (world.ann, "1", None),
    ):
        response = client_of(who).post(path, {**sent, "amount": amount})
        html = response.content.decode()
        assert response.status_code == 409
        if complaint is not None:
            assert complaint in html and f'value="{amount}"' in html and "id_amount_error" in html
    assert available_escrow(world.bounty) == world.escrow


def test_a_large_sum_is_asked_about_in_the_open_form(world: World) -> None:
    path, sent = f"/bounties/{world.bounty.pk}/escrow/", {"transfer_id": str(uuid4()), "amount": "500"}
    client = client_of(world.mira)
    html = client.post(path, sent).content.decode()
    assert "500 credits = 500,000,000 micro-credits: 50 % of all 1,000 credits" in html
    assert available_escrow(world.bounty) == world.escrow
    found = re.search(r'name="confirmed" value="([0-9,]+)"', html)
    assert found is not None and "<details open><summary>Add to the escrow" in html
    client.post(path, {**sent, "confirmed": found[1]})
    assert available_escrow(world.bounty) == 600_000_000
    other = client.post(path, {**sent, "amount": "1"})
    assert other.status_code == 409 and "already sent" in other.content.decode()
