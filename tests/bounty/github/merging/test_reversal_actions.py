"""Answering over REST and on the lineage's page, and naming unmeasured files over REST."""

import pytest
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from rest_framework.test import APIClient

from bounty.github.merging.reversals import open_reversals
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.github.merging.conftest import Hub, accept, state_of
from tests.command_here import command_here

DIFF = diff_of_line(3, "step_3 = 33")
API = "/api/v1"


def client_of(user: User) -> APIClient:
    client = APIClient()
    key = create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))[1]
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client


def test_a_reversal_is_shown_and_confirmed_over_rest(hub: Hub) -> None:
    world = hub.bound.world
    submission = accept(world.ruth, world.confirmed(world.ann, DIFF))
    hub.land_candidate(submission)
    hub.bound.follow()
    commit = hub.land(world.tree, "revert")
    hub.bound.follow()
    assert client_of(world.ann).get(f"{API}/reversals/").status_code == 403
    ruth = client_of(world.ruth)
    (row,) = ruth.get(f"{API}/reversals/?state=open").json()["results"]
    assert (row["kind"], row["commit"], row["submission"]) == ("reversal", commit, str(submission.pk))
    answer = f"{API}/reversals/{row['id']}/answer/"
    wanted = {"answer": "confirmed", "text": "the branch went back"}
    assert client_of(world.ann).post(answer, wanted, format="json").status_code == 403
    assert ruth.post(answer, {**wanted, "answer": "open"}, format="json").status_code == 400
    done = ruth.post(answer, wanted, format="json")
    assert (done.status_code, done.json()["state"]) == (200, "confirmed")
    assert state_of(submission) == "reversed"


def test_the_lineages_page_asks_and_takes_the_answer(hub: Hub, client: Client) -> None:
    world = hub.bound.world
    submission = accept(world.ruth, world.confirmed(world.ann, DIFF))
    hub.land_candidate(submission)
    hub.bound.follow()
    hub.land(world.tree, "revert")
    hub.bound.follow()
    row, page = open_reversals().get(), f"/lineages/{world.lineage.name}/"
    assert "took a merged gain back" in client.get(page).content.decode()
    assert "Take the award back" not in client.get(page).content.decode()
    client.force_login(world.ann)
    refused = client.post(f"{page}reversal/{row.pk}/confirmed/", {"text": "mine"})
    assert refused.status_code == 409 and state_of(submission) == "vested"
    client.force_login(world.ruth)
    assert "Take the award back" in client.get(page).content.decode()
    assert client.get(f"{page}reversal/{row.pk}/confirmed/")["Location"] == page
    assert client.post(f"{page}reversal/{row.pk}/other/", {"text": "x"}).status_code == 404
    assert "Give a reason" in client.post(f"{page}reversal/{row.pk}/confirmed/", {}).content.decode()
    done = client.post(f"{page}reversal/{row.pk}/dismissed/", {"text": "it stays paid"})
    assert done["Location"] == page and state_of(submission) == "vested"
    assert "took a merged gain back" not in client.get(page).content.decode()


def test_files_that_nobody_measured_are_named_over_rest(hub: Hub) -> None:
    world = hub.bound.world
    head = hub.head(world.confirmed(world.ann, DIFF), unmeasured=("setup.py",))
    path = f"{API}/submissions/{head.submission_id}/review/"
    ruth = client_of(world.ruth)
    refused = ruth.post(path, {"decision": "accept"}, format="json")
    assert refused.status_code == 400 and "setup.py" in str(refused.json())
    named = {"decision": "accept", "unmeasured_paths": ["setup.py"]}
    assert ruth.post(path, named, format="json").status_code == 200


def test_it_is_on_the_to_do_page_and_answered_by_the_command(
    hub: Hub,
    client: Client,
    live_server: LiveServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world = hub.bound.world
    submission = accept(world.ruth, world.confirmed(world.ann, DIFF))
    hub.land_candidate(submission)
    hub.bound.follow()
    hub.land(world.tree, "revert")
    hub.bound.follow()
    client.force_login(world.mira)
    page = client.get("/desk/").content.decode()
    assert "Branches that took a gain back" in page
    assert f"/lineages/{world.lineage.name}/#reversal" in page

    gainshare = command_here(monkeypatch, capfd)
    key = create_api_key(user=world.ruth, name="test", scopes=sorted(world.ruth.allowed_scopes))[1]
    where = ("--url", live_server.url, "--key", key)
    question = str(open_reversals().get().pk)
    status, listed, _ = gainshare("reversals", "list", "--state", "open", *where)
    assert status == 0 and "reversal" in listed
    assert gainshare("reversals", "dismiss", question, "--text", " ", *where)[0] == 2
    status, said, _ = gainshare("reversals", "confirm", question, "--text", "it was reverted", *where)
    assert status == 0 and "confirmed" in said
    assert state_of(submission) == "reversed"
    assert "Branches that took a gain back" not in client.get("/desk/").content.decode()
