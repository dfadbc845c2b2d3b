"""Binding, fetching and releasing over REST, on the lineage's page and the to-do page, and by commands."""

import json
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from bounty.github.repositories.following import follow
from bounty.models import Lineage, RepositoryBinding
from bounty.pages.desk import n_waiting
from bounty.services import wakeups
from bounty.tasks import follow_repository, poll_repositories
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.cli.output import console
from tests.bounty.bounty_world import World
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository
from tests.command_here import command_here

API = "/api/v1/lineages/"


def key_of(user: User) -> str:
    return create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))[1]


def client_of(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key_of(user)}")
    return client


def lose_the_tip(bound: Bound) -> None:
    bound.follow()
    bound.repository.put("model/layers/moe/router.py", "gate = 'other'\n")
    bound.repository.commit("rewritten", parent=None)
    bound.follow()


def test_a_repository_is_bound_and_shown_over_rest(world: World) -> None:
    path, mira = f"{API}{world.lineage.name}/repository/", client_of(world.mira)
    assert APIClient().get(path).status_code == 404
    wanted = {"repository": "gain/share", "branch": "main"}
    assert client_of(world.ann).post(path, wanted, format="json").status_code == 403
    made = mira.post(path, wanted, format="json")
    assert (made.status_code, made.json()["url"]) == (200, "https://github.com/gain/share.git")
    seen = APIClient().get(path).json()
    assert (seen["folder"], seen["commit"], seen["tree"], seen["problem"]) == ("model", "", None, "")
    assert seen["tip"] == world.tree.pk
    refused = mira.post(path, {"repository": "file:///etc", "branch": "main"}, format="json")
    assert refused.status_code == 400 and "fetched by https only" in str(refused.json())
    assert mira.delete(path).status_code == 204 and not RepositoryBinding.objects.exists()
    assert mira.post(f"{API}nothing/repository/", wanted, format="json").status_code == 404


def test_a_fetch_is_asked_of_the_control_worker(
    bound: Bound, outbox: Any, django_capture_on_commit_callbacks: Any
) -> None:
    path = f"{API}{bound.lineage.name}/repository/fetch/"
    assert client_of(bound.world.ann).post(path).status_code == 403
    with django_capture_on_commit_callbacks(execute=True):
        assert client_of(bound.world.mira).post(path).status_code == 202
    assert outbox.of(wakeups.FETCH) == [bound.lineage.name]
    follow_repository(bound.lineage.name)
    assert RepositoryBinding.objects.get().commit == bound.first
    follow_repository("no-lineage")  # no longer bound: nothing happens


def test_beat_asks_for_every_bound_repository(
    bound: Bound, outbox: Any, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        poll_repositories()
    assert outbox.of(wakeups.FETCH) == [bound.lineage.name]


def test_a_lost_tip_is_said_and_released_over_rest(bound: Bound) -> None:
    lose_the_tip(bound)
    shown = APIClient().get(f"{API}{bound.lineage.name}/").json()
    assert "was rewritten" in shown["merge_stop_reason"] and shown["stop_reason"] == ""
    mira = client_of(bound.world.mira)
    assert mira.delete(f"{API}{bound.lineage.name}/repository/").status_code == 409
    done = mira.post(f"{API}{bound.lineage.name}/release/", {"reason": "cleaned"}, format="json")
    assert (done.status_code, done.json()["evidence_digest"]) == (200, "")
    assert APIClient().get(f"{API}{bound.lineage.name}/").json()["merge_stop_reason"] == ""
    again = mira.post(f"{API}{bound.lineage.name}/release/", {"reason": "cleaned"}, format="json")
    assert again.status_code == 409


def test_the_page_binds_fetches_and_unbinds(world: World, client: Client) -> None:
    page = f"/lineages/{world.lineage.name}/"
    form = {"repository": "gain/share", "branch": "main", "folder": "model"}
    assert "Bind it" not in client.get(page).content.decode()
    client.force_login(world.ann)
    assert "Bind it" not in client.get(page).content.decode()
    assert (
        client.post(f"{page}repository/", form).status_code == 400 and not RepositoryBinding.objects.exists()
    )
    client.force_login(world.mira)
    assert "Bind it to a repository" in client.get(page).content.decode()
    refused = client.post(f"{page}repository/", {**form, "branch": "--upload-pack=x"})
    assert refused.status_code == 400 and "not the name of a branch" in refused.content.decode()
    assert client.post(f"{page}repository/", {**form, "branch": ""}).status_code == 400
    assert client.post(f"{page}repository/", form)["Location"] == page
    assert "https://github.com/gain/share.git" in client.get(page).content.decode()
    assert client.post(f"{page}repository/fetch/")["Location"] == page
    assert client.post(f"{page}repository/unbind/")["Location"] == page
    assert client.post(f"{page}repository/unbind/").status_code == 404
    assert client.post(f"{page}repository/other/").status_code == 404


def test_the_page_and_the_to_do_page_show_what_is_not_followed(bound: Bound, client: Client) -> None:
    bound.repository.put("model/link.py", "/etc/passwd", "120000")
    bound.repository.commit()
    bound.follow()
    client.force_login(bound.world.mira)
    assert (
        "model/link.py is a symbolic link" in client.get(f"/lineages/{bound.lineage.name}/").content.decode()
    )
    assert "Branches that are not followed" in client.get("/desk/").content.decode()


def test_the_page_and_the_to_do_page_show_a_lost_tip_and_release_it(bound: Bound, client: Client) -> None:
    lose_the_tip(bound)
    page = f"/lineages/{bound.lineage.name}/"
    assert "branch lost the tip" in client.get(page).content.decode()
    client.force_login(bound.world.mira)
    assert "Branches that lost the tip" in client.get("/desk/").content.decode()
    assert n_waiting(bound.world.mira) == 1
    assert client.post(f"{page}repository/release/", {"text": ""}).status_code == 409
    assert client.post(f"{page}repository/release/", {"text": "cleaned"})["Location"] == page
    assert "branch lost the tip" not in client.get(page).content.decode()
    assert bound.lineage.repository_stops.get().release_reason == "cleaned"


@pytest.mark.django_db(transaction=True)
def test_the_commands_bind_fetch_release_and_unbind(
    live_server: Any,
    served_folder: tuple[Any, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def work_at_once(name: str, args: list[str], **_options: Any) -> None:
        """What the control worker does with the message."""
        if name == wakeups.FETCH and RepositoryBinding.objects.filter(lineage__name=args[0]).exists():
            follow(lineage=args[0])

    world, (root, served_at) = World(), served_folder
    name = world.lineage.name
    repository = Repository(root / "model.git")
    repository.put_tree(world.tree)
    first = repository.commit()
    monkeypatch.setattr(wakeups.app, "send_task", work_at_once)
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", key_of(world.mira))
    monkeypatch.setattr(console, "width", 240)
    gainshare = command_here(monkeypatch, capfd)
    status, out, _ = gainshare(
        "lineages", "bind", name, "--repository", f"{served_at}/model.git", "--branch", "main"
    )
    assert status == 0 and f"{name} is bound to {served_at}/model.git, branch main, folder model" in out
    status, out, _ = gainshare("lineages", "fetch", name)
    assert status == 0 and f"follows main at {first[:12]}" in out
    repository.put("model/layers/moe/router.py", "gate = 'other'\n")
    repository.commit("rewritten", parent=None)
    status, _, err = gainshare("lineages", "fetch", name)
    assert status == 1 and "was rewritten" in err
    assert "branch lost the tip" in gainshare("lineages", "list")[1]
    status, out, _ = gainshare("lineages", "release", name, "--reason", "cleaned")
    assert status == 0 and "merges that waited are done" in out
    seen = json.loads(gainshare("lineages", "fetch", name, "--json")[1])
    assert seen["problem"] == "" and seen["tip"] == Lineage.objects.get(name=name).tip_id != world.tree.pk
    status, _, err = gainshare("lineages", "bind", name, "--repository", "ext::sh -c id")
    assert status == 1 and "fetched by" in err
    assert gainshare("lineages", "unbind", name)[0] == 0
    assert gainshare("lineages", "fetch", name)[0] == 1
