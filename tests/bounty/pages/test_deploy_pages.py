"""Deployments on pages and at the command line: who may deploy, what is shown, and the way back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from benchmarks.canary.order import LINES
from bounty.models import AutomaticDeploy
from bounty.services.deployments import tips
from bounty.services.trees import load_tree
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.capacity.models import Deployment, DeploymentState, ServedModel
from gainshare.cli.output import console
from tests.bounty.bounty_world import World
from tests.command_here import Command, command_here

MODEL = "tiny"
LINE = {"bound_log_ppm": 182_322, "estimate_log_ppm": 262_365, "pairs": 24}
RESULT = {
    "passed": True,
    "why": "",
    "served": dict.fromkeys(LINES, LINE),
    "best": dict.fromkeys(LINES, LINE),
    "batch_times": [{"batch": 4, "candidate_ns": 8_000_000, "served_ns": 9_500_000}],
}


@pytest.fixture
def made(transactional_db: None, tmp_path: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> World:
    settings.BLOB_ROOT = tmp_path / "blobs"
    world = World()
    installed = load_tree(world.tree)
    monkeypatch.setattr(tips, "shipped_tree", lambda store: installed)
    ServedModel.objects.create(name=MODEL)
    return world


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def served(world: World, **more: Any) -> Deployment:
    """A deployment that serves, after a first one whose tree it replaced."""
    first = Deployment.objects.create(
        model=MODEL, tree="0" * 64, reason="first", state=DeploymentState.SUPERSEDED, is_first=True
    )
    return Deployment.objects.create(
        model=MODEL,
        tree=world.tree.pk,
        lineage=world.lineage.name,
        reason="mira deployed it",
        requested_by=world.mira,
        before=first,
        **{"state": DeploymentState.SERVING, "serving_at": timezone.now(), "result": RESULT, **more},
    )


def test_a_deployment_shows_its_canary_to_everyone_and_the_way_back_to_maintainers(made: World) -> None:
    shown = served(made)
    for client in (Client(), signed_in(made.ann), signed_in(made.mira)):
        page = client.get(f"/deployments/{shown.pk}/").content.decode()
        for text in ("decode", "+20.0\N{NO-BREAK SPACE}%", "+30.0\N{NO-BREAK SPACE}%", "8.00 ms", "9.50 ms"):
            assert text in page
        assert ("Roll back" in page) == (client.session.get("_auth_user_id") == str(made.mira.pk))
        assert str(shown.pk) in client.get("/deployments/").content.decode()


def test_only_a_maintainer_rolls_back_and_says_why(made: World) -> None:
    shown = served(made)
    path = f"/deployments/{shown.pk}/rollback/"
    assert signed_in(made.ann).post(path, {"text": "mine"}).status_code == 403
    assert not Deployment.objects.filter(is_rollback=True).exists()
    answer = signed_in(made.mira).post(path, {"text": "answers differ"})
    back = Deployment.objects.get(is_rollback=True)
    assert answer.headers["Location"] == f"/deployments/{back.pk}/"
    assert (back.tree, back.reason) == ("0" * 64, "answers differ")
    refused = signed_in(made.mira).post(f"/deployments/{shown.before_id}/rollback/", {"text": "again"})
    assert refused.status_code == 409 and "cannot be rolled back" in refused.content.decode()


def test_a_maintainer_deploys_on_the_lineages_page(made: World) -> None:
    path = f"/lineages/{made.lineage.name}/deploy/"
    body = {"deploy-model": MODEL, "action": "deploy"}
    refused = signed_in(made.ann).post(path, body)
    assert refused.status_code == 400 and not Deployment.objects.exists()
    answer = signed_in(made.mira).post(path, body)
    asked = Deployment.objects.get()
    assert answer.headers["Location"] == f"/deployments/{asked.pk}/"
    assert asked.tree == made.lineage.tip_id
    assert "In production" in signed_in(made.mira).get(f"/lineages/{made.lineage.name}/").content.decode()
    signed_in(made.mira).post(path, {"deploy-model": MODEL, "action": "automatic-on"})
    assert AutomaticDeploy.objects.get().is_on
    signed_in(made.mira).post(path, {"deploy-model": MODEL, "action": "automatic-off"})
    assert not AutomaticDeploy.objects.get().is_on
    assert signed_in(made.mira).post(path, {"deploy-model": "other"}).status_code == 400
    assert signed_in(made.mira).post("/lineages/nowhere/deploy/", body).status_code == 404


@pytest.fixture
def gainshare(
    made: World, live_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    _, secret = create_api_key(user=made.mira, name="test", scopes=["read", "maintain"])
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", secret)
    monkeypatch.setattr(console, "width", 220)
    return command_here(monkeypatch, capfd)


def test_the_command_deploys_shows_and_rolls_back(made: World, gainshare: Command) -> None:
    status, out, err = gainshare("deploy", made.lineage.name, "--model", MODEL, "--no-wait", "--json")
    assert status == 0, err
    assert json.loads(out)["tree"] == made.lineage.tip_id
    Deployment.objects.all().delete()
    served(made)
    status, out, _ = gainshare("deploy", "--model", MODEL)
    assert status == 0 and "serving" in out and made.lineage.name in out
    status, _, err = gainshare("deploy", "--rollback", "--model", MODEL)
    assert status == 2 and "say why with --reason" in err
    status, out, err = gainshare("deploy", "--rollback", "--model", MODEL, "--reason", "slow", "--no-wait")
    assert status == 0, err
    assert Deployment.objects.get(is_rollback=True).reason == "slow"
    status, out, _ = gainshare("deploy", made.lineage.name, "--model", MODEL, "--automatic", "on")
    assert status == 0 and "two acceptances" in out
    for wrong, said in (
        ((made.lineage.name,), "--model"),
        ((made.lineage.name, "--model", MODEL, "--automatic", "x"), "on or off"),
    ):
        status, _, err = gainshare("deploy", *wrong)
        assert status == 2 and said in err
