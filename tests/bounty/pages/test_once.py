"""Forms and REST requests take effect once, also when they are sent twice or concurrently."""

import re
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from rest_framework.test import APIClient

from bounty.models import Bounty, Lineage, Reproduction, Submission
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.pages.test_bounties import new_terms
from tests.bounty.services.test_races import at_once

ID = re.compile(r'name="call_id" value="([0-9a-f-]{36})"')


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def form_of(client: Client, path: str) -> str:
    """The id that the form on this page goes out with."""
    found = ID.search(client.get(path).content.decode())
    assert found is not None
    return found[1]


def test_a_bountys_form_sent_twice_opens_and_funds_one(world: World) -> None:
    client, before = client_of(world.mira), ledger.totals().treasury
    sent = new_terms(world, call_id=form_of(client, "/bounties/new/"))
    answers = [client.post("/bounties/new/", sent) for _ in range(2)]
    bounty = Bounty.objects.get(title="Quicker routing")
    assert [answer.headers["Location"] for answer in answers] == [f"/bounties/{bounty.pk}/"] * 2
    assert before - ledger.totals().treasury == 12_500_000
    other = client.post("/bounties/new/", {**sent, "escrow": "13"})
    html = other.content.decode()
    assert other.status_code == 400 and "already sent with other content" in html
    again = ID.search(html)
    assert again is not None and again[1] != sent["call_id"]
    client.post("/bounties/new/", {**sent, "escrow": "13", "call_id": again[1]})
    assert Bounty.objects.filter(title="Quicker routing").count() == 2


def test_an_id_of_another_person_shows_nothing_of_theirs(world: World) -> None:
    sent = new_terms(world, call_id=str(uuid4()))
    client_of(world.mira).post("/bounties/new/", sent)
    answer = client_of(world.ruth).post("/bounties/new/", sent)
    assert answer.status_code == 400 and "Location" not in answer.headers
    assert Bounty.objects.filter(title="Quicker routing").count() == 1


def test_a_refused_form_may_be_corrected_and_sent_with_the_same_id(world: World) -> None:
    sent = new_terms(world, call_id=str(uuid4()))
    assert client_of(world.mira).post("/bounties/new/", {**sent, "escrow": "9999"}).status_code == 400
    assert client_of(world.mira).post("/bounties/new/", sent).status_code == 302


@pytest.mark.parametrize("diff", [diff_of_line(1, "fast = 1"), "this is no diff"])
def test_a_diff_sent_twice_is_one_submission(world: World, diff: str) -> None:
    path, client = f"/bounties/{world.bounty.pk}/submit/", client_of(world.ann)
    sent = {"diff": diff, "call_id": form_of(client, path)}
    answers = [client.post(path, sent).headers["Location"] for _ in range(2)]
    assert answers == [f"/submissions/{Submission.objects.get().pk}/"] * 2
    elsewhere = world.open(title="Another")
    assert client.post(f"/bounties/{elsewhere.pk}/submit/", sent).status_code == 400


def test_a_reproduction_and_a_lineage_sent_twice_are_one(world: World) -> None:
    terms: dict[str, Any] = {
        "suite": "bug", "preset": "standard", "severity": "low", "award_microcredits": 1_000_000,
        "rate_microcredits_per_nat": 0,
    }  # fmt: skip
    bug = world.open(**terms)
    path, client = f"/bounties/{bug.pk}/reproduce/", client_of(world.ann)
    text = "def observe():\n    return 1\n\n\ndef check(seen):\n    assert seen == 2\n"
    sent = {"reproduction": text, "call_id": form_of(client, path)}
    assert [client.post(path, sent).status_code for _ in range(2)] == [302, 302]
    assert Reproduction.objects.count() == 1
    mira = client_of(world.mira)
    line = {"name": "twice", "base_tree": world.tree.pk, "call_id": form_of(mira, "/lineages/")}
    assert [mira.post("/lineages/", line).status_code for _ in range(2)] == [302, 302]
    assert Lineage.objects.filter(name="twice").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_bountys_form_sent_at_once_opens_and_funds_one() -> None:
    world = World()
    sent, before = new_terms(world, call_id=str(uuid4())), ledger.totals().treasury
    clients = [client_of(world.mira) for _ in range(4)]
    answers = at_once([lambda client=client: client.post("/bounties/new/", sent) for client in clients])  # type: ignore[misc]
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert Bounty.objects.filter(title="Quicker routing").count() == 1
    assert before - ledger.totals().treasury == 12_500_000
    assert all(invariant.holds for invariant in audit())


def rest_terms(world: World, **changes: Any) -> dict[str, Any]:
    terms = {
        "title": "Over REST",
        "lineage": world.lineage.name,
        "suite": "moe_forward",
        "preset": "demo",
        "escrow_microcredits": 1_000_000,
        "rate_microcredits_per_nat": 2_000_000,
    }
    return {**terms, **changes}


def rest(user: User, body: dict[str, Any], key: str | None) -> Any:
    client = APIClient()
    client.force_authenticate(user)
    headers = {} if key is None else {"HTTP_IDEMPOTENCY_KEY": key}
    return client.post("/api/v1/bounties/", body, format="json", **headers)


def test_over_rest_the_callers_key_makes_it_once(world: World) -> None:
    key, before = str(uuid4()), ledger.totals().treasury
    answers = [rest(world.mira, rest_terms(world), key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert before - ledger.totals().treasury == 1_000_000
    for other in (
        rest(world.mira, rest_terms(world, title="Other"), key),
        rest(world.ruth, rest_terms(world), key),
    ):
        assert (other.status_code, other.json()["error"]["code"]) == (409, "id_conflict")
    assert rest(world.mira, rest_terms(world), "not a UUID").status_code == 400
    assert rest(world.mira, rest_terms(world), None).status_code == 201
    assert Bounty.objects.filter(title="Over REST").count() == 2


@pytest.mark.django_db(transaction=True)
def test_over_rest_at_once_it_is_made_once() -> None:
    world, key = World(), str(uuid4())
    answers = at_once([lambda: rest(world.mira, rest_terms(world), key)] * 4)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert Bounty.objects.filter(title="Over REST").count() == 1


@pytest.mark.parametrize("amount", ["1.000", "1,5", "1000000", 1000000.0])
def test_over_rest_an_amount_is_a_whole_number(world: World, amount: Any) -> None:
    for field in ("escrow_microcredits", "rate_microcredits_per_nat"):
        answer = rest(world.mira, rest_terms(world, **{field: amount}), None)
        assert answer.status_code == 400 and field in answer.json()["error"]["details"]
    assert not Bounty.objects.filter(title="Over REST").exists()
