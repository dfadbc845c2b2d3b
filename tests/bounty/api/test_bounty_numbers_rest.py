"""A bounty's number in REST, on pages and in commands, wherever its id is taken."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from rest_framework.test import APIClient

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.cli.output import console
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.bug_world import BugWorld
from tests.command_here import command_here

API = "/api/v1/"
DIFF = diff_of_line(3, "step_3 = 33")


def key_of(user: User) -> str:
    return create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))[1]


def client_of(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key_of(user)}")
    return client


def test_every_operation_on_a_bounty_takes_its_number(world: World) -> None:
    number, mira = world.bounty.short_name, client_of(world.mira)
    assert mira.get(f"{API}bounties/").json()["results"][0]["number"] == number
    seen = mira.get(f"{API}bounties/{number}/").json()
    assert (seen["id"], seen["number"]) == (str(world.bounty.pk), number)
    assert mira.get(f"{API}bounties/{number}/leaderboard/").json() == []
    funds = {"transfer_id": str(uuid4()), "amount_microcredits": 5}
    funded = mira.post(f"{API}bounties/{number}/fund/", funds, format="json").json()
    assert funded["escrow"]["posted"] == world.escrow + 5
    assert mira.post(f"{API}bounties/{number}/close/", {}, format="json").json()["state"] == "closed"


def test_a_submission_names_its_bounty_by_number(world: World) -> None:
    number, ann = world.bounty.short_name, client_of(world.ann)
    made = ann.post(f"{API}submissions/", {"bounty": number, "diff": DIFF}, format="json")
    assert made.status_code == 201
    assert (made.json()["bounty"], made.json()["bounty_number"]) == (str(world.bounty.pk), number)
    other = world.open()
    for name, n in ((number, 1), (other.short_name, 0), (str(world.bounty.pk), 1), (str(uuid4()), 0)):
        assert ann.get(f"{API}submissions/", {"bounty": name}).json()["count"] == n
        assert ann.get(f"{API}awards/", {"bounty": name}).json()["count"] == 0


@pytest.mark.django_db
def test_a_reproduction_names_its_bounty_by_number() -> None:
    world = BugWorld()
    number, ann = world.bug.short_name, client_of(world.ann)
    text = Path("examples/bugs/batched_positions.py").read_text()
    made = ann.post(f"{API}reproductions/", {"bounty": number, "text": text}, format="json")
    assert (made.status_code, made.json()["bounty_number"]) == (201, number)
    assert ann.get(f"{API}reproductions/", {"bounty": number}).json()["count"] == 1


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("bounties/{}/", (404, "not_found")),
        ("bounties/{}/leaderboard/", (404, "not_found")),
        ("submissions/?bounty={}", (400, "invalid")),
        ("reproductions/?bounty={}", (400, "invalid")),
        ("awards/?bounty={}", (400, "invalid")),
    ],
)
def test_a_number_of_no_bounty_is_refused_with_what_to_do(
    world: World, path: str, answer: tuple[int, str]
) -> None:
    refused = APIClient().get(API + path.format("B999999"))
    assert (refused.status_code, refused.json()["error"]["code"]) == answer
    assert "no bounty B999999" in str(refused.json()["error"])
    assert "gainshare bounties" in str(refused.json()["error"])


def test_another_text_is_refused_with_what_to_do(world: World) -> None:
    ann = client_of(world.ann)
    for name in ("12", "#12", 12, None, ["B1"]):
        refused = ann.post(f"{API}submissions/", {"bounty": name, "diff": DIFF}, format="json")
        assert refused.status_code == 400
    assert "such as B12" in str(ann.get(f"{API}submissions/", {"bounty": "12"}).json())
    assert "such as B12" in str(ann.get(f"{API}bounties/12/").json())


def test_the_page_of_a_number_is_the_bountys_page(world: World, client: Client) -> None:
    number = world.bounty.short_name
    for written in (number, number.lower()):
        assert client.get(f"/bounties/{written}/")["Location"] == f"/bounties/{world.bounty.pk}/"
    page = client.get(f"/bounties/{number}/", follow=True).content.decode()
    assert f"{number}: Faster experts" in page and f"gainshare submit {number} my.diff" in page
    assert number in client.get("/bounties/").content.decode()
    assert number in client.get(f"/lineages/{world.lineage.name}/").content.decode()


def test_the_page_of_a_wrong_number_shows_the_list_and_the_reason(world: World, client: Client) -> None:
    page = client.get("/bounties/B999999/")
    assert page.status_code == 404
    assert "There is no bounty B999999." in page.content.decode()
    assert world.bounty.short_name in page.content.decode()


@pytest.mark.django_db(transaction=True)
def test_the_commands_list_and_take_numbers(
    live_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World()
    number = world.bounty.short_name
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", key_of(world.ann))
    monkeypatch.setattr(console, "width", 240)
    gainshare = command_here(monkeypatch, capfd)
    shown = gainshare("bounties")[1]
    assert number in shown and "Faster experts" in shown and "20 a nat" in shown
    assert json.loads(gainshare("bounties", "--state", "closed", "--json")[1]) == []
    diff = tmp_path / "my.diff"
    diff.write_text(DIFF)
    status, out, _ = gainshare("submit", number, str(diff), "--json")
    assert (status, json.loads(out)["bounty"]) == (0, str(world.bounty.pk))
    status, _, err = gainshare("submit", "B999999", str(diff))
    assert status == 1 and "There is no bounty B999999" in err
