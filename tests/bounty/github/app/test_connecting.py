"""A maintainer connects the site with GitHub by commands, from nothing to an installation that is seen."""

import json
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest
from django.urls import resolve, reverse
from pytest_django import Settings
from rest_framework.test import APIClient

from bounty.github.app.installations import check_app
from bounty.github.app.manifest import has_public_address, manifest
from bounty.github.events.deliveries import process_delivery, receive
from bounty.github.events.door import Webhook
from bounty.github.standin.control.standin import StandIn
from bounty.models import Delivery, GitHubApp, RepositoryBinding
from bounty.services import wakeups
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.cli.output import console
from tests.bounty.bounty_world import World
from tests.bounty.github.app.conftest import Connected
from tests.command_here import Command, command_here

API = "/api/v1/github/"


def _key(user: User) -> str:
    return create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))[1]


def _client(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {_key(user)}")
    return client


@pytest.fixture
def gainshare(
    live_server: Any, standin: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    def work_at_once(name: str, args: list[str], **_options: Any) -> None:
        """What the control worker does with the message."""
        if name == wakeups.CHECK_APP:
            check_app()

    monkeypatch.setattr(wakeups.app, "send_task", work_at_once)
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setattr(console, "width", 240)
    return command_here(monkeypatch, capfd)


@pytest.fixture
def mira(live_server: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setenv("GAINSHARE_KEY", _key(made.mira))
    return made


@pytest.mark.django_db(transaction=True)
def test_from_nothing_to_a_connected_repository(
    gainshare: Command, mira: World, standin: StandIn, settings: Settings, tmp_path: Path
) -> None:
    for name in ("GITHUB_APP_ID", "GITHUB_PRIVATE_KEY", "GITHUB_CLIENT_ID", "GITHUB_CLIENT_SECRET"):
        setattr(settings, name, "")
    settings.GITHUB_WEBHOOK_SECRETS = []

    page = tmp_path / "make.html"
    status, out, _ = gainshare("github", "connect", "--name", "Our Gainshare", "--page", str(page))
    assert status == 0
    assert '"checks": "write"' in out
    assert "1. Make the App: open" in out
    assert "missing: GAINSHARE_GITHUB_APP_ID is not set" in out

    written = page.read_text()
    action = re.search(r'action="([^"]+)"', written)
    value = re.search(r'name="manifest" value="([^"]+)"', written)
    assert action is not None
    assert value is not None
    assert action.group(1) == f"{standin.url}/settings/apps/new"
    answer = httpx.post(action.group(1), data={"manifest": value.group(1).replace("&quot;", '"')})
    assert answer.status_code == 302
    (code,) = parse_qs(urlsplit(answer.headers["Location"]).query)["code"]

    folder = tmp_path / "secrets"
    status, out, _ = gainshare("github", "connect", "--code", code, "--into", str(folder))
    assert status == 0
    variables = dict(line.split("=", 1) for line in out.splitlines() if line.startswith("GAINSHARE_"))
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip() not in out
    settings.GITHUB_APP_ID = variables["GAINSHARE_GITHUB_APP_ID"]
    settings.GITHUB_PRIVATE_KEY = Path(variables["GAINSHARE_GITHUB_PRIVATE_KEY_FILE"]).read_text().strip()
    settings.GITHUB_CLIENT_ID = variables["GAINSHARE_GITHUB_CLIENT_ID"]
    settings.GITHUB_CLIENT_SECRET = Path(variables["GAINSHARE_GITHUB_CLIENT_SECRET_FILE"]).read_text().strip()
    settings.GITHUB_WEBHOOK_SECRETS = [
        Path(variables["GAINSHARE_GITHUB_WEBHOOK_SECRET_FILE"]).read_text().strip()
    ]
    assert [standin.app.webhook_secret] == settings.GITHUB_WEBHOOK_SECRETS

    status, _, err = gainshare("github", "connect", "--code", code, "--into", str(folder))
    assert status == 1
    assert "can be used once" in err

    status, out, _ = gainshare("github", "status")
    assert status == 1
    assert "missing: The App is not installed anywhere" in out
    repository = standin.add_repository("octo/model")
    standin.install([repository])
    status, out, _ = gainshare("github", "status")
    assert status == 1
    assert "missing: No lineage is connected" in out
    status, _, err = gainshare("github", "bind", mira.lineage.name, "octo/nothing")
    assert (status, "does not see octo/nothing" in err) == (1, True)
    status, out, _ = gainshare("github", "bind", mira.lineage.name, "octo/model", "--daily", "2.5")
    assert status == 0
    assert f"pull requests of octo/model to main are judged for {mira.lineage.name}" in out
    assert RepositoryBinding.objects.get().daily_microcredits == 2_500_000
    status, out, _ = gainshare("github", "status")
    assert (status, "Nothing is missing." in out) == (0, True)
    assert "octo/model" in out
    status, out, _ = gainshare("github", "status", "--json")
    seen = json.loads(out)
    assert seen["installations"][0]["repositories"][0]["lineages"] == [mira.lineage.name]
    assert seen["missing"] == []


@pytest.mark.django_db(transaction=True)
def test_connect_prints_one_document_for_programs(gainshare: Command, mira: World, standin: StandIn) -> None:
    status, out, _ = gainshare("github", "connect", "--organization", "octo", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["form_url"] == f"{standin.url}/organizations/octo/settings/apps/new"
    assert document["manifest"]["default_permissions"]["pull_requests"] == "write"
    status, out, _ = gainshare("github", "connect", "--code", "x", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (2, "usage")


def test_rest_is_for_maintainers(world: World, connected: Connected) -> None:
    assert APIClient().get(API).status_code == 401
    assert _client(world.ann).get(API).status_code == 403
    assert _client(world.ann).post(f"{API}check/").status_code == 403
    assert _client(world.ann).get(f"{API}manifest/").status_code == 403
    assert _client(world.mira).get(f"{API}manifest/", {"name": "x" * 35}).status_code == 400


def test_rest_shows_the_connection_and_no_secret(
    world: World, connected: Connected, outbox: Any, django_capture_on_commit_callbacks: Any
) -> None:
    client = _client(world.mira)
    seen = client.get(API)
    assert seen.status_code == 200
    assert any("GitHub was not asked yet" in text for text in seen.json()["missing"])
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(f"{API}check/").status_code == 202
    assert [name for name, _, _ in outbox] == [wakeups.CHECK_APP]
    check_app()
    text = client.get(API).content.decode()
    app = connected.standin.app
    assert connected.standin.app.slug in text
    hidden = (app.client_secret, app.webhook_secret, connected.standin.private_key.splitlines()[1])
    assert not [secret for secret in hidden if secret in text]


def test_what_is_wrong_with_an_installation_is_listed(world: World, connected: Connected) -> None:
    connected.standin.set_permissions(connected.opened, {"metadata": "read"})
    check_app()
    missing = _client(world.mira).get(API).json()["missing"]
    assert any(text.startswith("octo: It needs read for contents") for text in missing)
    assert GitHubApp.objects.get().problem == ""


@pytest.mark.parametrize(
    ("url", "is_public"),
    [
        ("https://gainshare.example.org", True),
        ("https://8.8.8.8", True),
        ("http://127.0.0.1:8000", False),
        ("http://localhost:8000", False),
        ("http://gainshare", False),
        ("https://10.0.0.7", False),
        ("https://judge.internal", False),
        ("https://[::1]:8000", False),
    ],
)
def test_a_webhook_is_asked_for_only_where_github_reaches_the_site(
    settings: Settings, url: str, is_public: bool
) -> None:
    settings.PUBLIC_URL = url
    assert has_public_address() is is_public
    assert ("hook_attributes" in manifest()) is is_public
    assert ("default_events" in manifest()) is is_public  # there are none without a webhook
    assert len(manifest(name="")["name"]) <= 34


def test_the_manifest_names_addresses_that_the_site_has(settings: Settings) -> None:
    settings.PUBLIC_URL = "https://gainshare.example.org"
    made = manifest()
    assert made["callback_urls"] == [f"{settings.PUBLIC_URL}{reverse('github-callback')}"]
    path = made["hook_attributes"]["url"].removeprefix(settings.PUBLIC_URL)
    assert resolve(path).func.view_class is Webhook  # type: ignore[attr-defined]


def test_events_about_installations_have_github_asked(
    connected: Connected, outbox: Any, django_capture_on_commit_callbacks: Any
) -> None:
    connected.standin.suspend(connected.opened)
    connected.standin.rename_repository(connected.repository, "engine")
    sent = [
        row
        for row in connected.standin.deliveries.all
        if row.event != "repository" or row.action == "renamed"
    ]
    assert {row.event for row in sent} == {"installation"}  # a suspended App is not told of names
    connected.standin.unsuspend(connected.opened)
    connected.standin.rename_repository(connected.repository, "motor")
    for row in connected.standin.deliveries.all:
        with django_capture_on_commit_callbacks(execute=True):
            receive(delivery_id=UUID(row.guid), event=row.event, payload=row.payload)
        outbox.clear()
        with django_capture_on_commit_callbacks(execute=True):
            process_delivery(delivery_id=UUID(row.guid))
        assert [name for name, _, _ in outbox] == [wakeups.CHECK_APP]
        assert Delivery.objects.get(pk=row.guid).done_at is not None
