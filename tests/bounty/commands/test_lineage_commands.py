"""Renewing lineages over REST, and `gainshare lineages` against a real site over HTTP."""

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.cli.output import console
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.older_layout import OLD_MODULES, older_version
from tests.command_here import command_here

API = "/api/v1/lineages/"


def key_of(user: User) -> str:
    return create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))[1]


def client_of(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key_of(user)}")
    return client


@pytest.mark.django_db
def test_a_maintainer_renews_over_rest() -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
        submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
        assert APIClient().get(f"{API}{world.lineage.name}/").json()["is_outdated"] is False
    assert APIClient().get(f"{API}{world.lineage.name}/").json()["is_outdated"] is True
    assert APIClient().post(f"{API}renew/").status_code == 401
    assert client_of(world.ann).post(f"{API}renew/").status_code == 403
    mira = client_of(world.mira)
    answer = mira.post(f"{API}renew/")
    assert answer.status_code == 200
    done = answer.json()
    assert done["lineages"] == [
        {
            "lineage": world.lineage.name,
            "old_tip": world.tree.pk,
            "tip": done["shipped_tree"],
            "ended": [str(submission.pk)],
            "kept": [],
            "reproductions": [],
        }
    ]
    assert mira.post(f"{API}renew/").json()["lineages"] == []
    seen = APIClient().get(f"{API}{world.lineage.name}/").json()
    assert (seen["tip"], seen["origin"], seen["is_outdated"]) == (
        done["shipped_tree"],
        done["shipped_tree"],
        False,
    )
    assert "renewed" in seen["moves"][-1]["reason"] and world.tree.pk in seen["moves"][-1]["reason"]


@pytest.mark.django_db
def test_refusals_have_their_code() -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
    ann, mira = client_of(world.ann), client_of(world.mira)
    body = {"bounty": str(world.bounty.pk), "diff": diff_of_line(3, "step_3 = 33")}
    refused = ann.post("/api/v1/submissions/", body, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "old_layout")
    started = mira.post(API, {"name": "old", "base_tree": world.tree.pk}, format="json")
    assert (started.status_code, started.json()["error"]["code"]) == (409, "old_layout")
    assert mira.post(API, {"name": "renew"}, format="json").status_code == 400


@pytest.mark.django_db(transaction=True)
def test_the_command_renews_and_says_what_it_did(
    live_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with older_version():
        world = World(modules=OLD_MODULES)
        submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setattr(console, "width", 240)
    gainshare = command_here(monkeypatch, capfd)
    monkeypatch.setenv("GAINSHARE_KEY", key_of(world.ann))
    status, out, err = gainshare("lineages", "renew")
    assert (status, out) == (1, "") and "maintainer" in err
    monkeypatch.setenv("GAINSHARE_KEY", key_of(world.mira))
    assert "renew it" in gainshare("lineages", "list")[1]
    status, out, _ = gainshare("lineages", "renew")
    assert status == 0
    assert f"{world.lineage.name}: tip {world.tree.pk[:16]} -> " in out
    assert f"submission {submission.pk}: ended without counting as an attempt" in out
    status, out, _ = gainshare("lineages", "renew", "--json")
    assert (status, json.loads(out)["lineages"]) == (0, [])
    assert "nothing to do" in gainshare("lineages", "renew")[1]
    listed = json.loads(gainshare("lineages", "list", "--json")[1])
    assert [row["is_outdated"] for row in listed] == [False]
