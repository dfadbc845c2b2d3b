"""Bugs over REST, on the command line, on pages, and through the runner's client."""

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.test import Client
from rest_framework.test import APIClient

from benchmarks.evidence.signing import generate_key
from benchmarks.runner.client import RunnerClient
from bounty.models import Reproduction, SubmissionState
from bounty.pages.bugs import attempt_rows
from bounty.pages.forms import BountyForm
from bounty.services.reproductions import decline, settle
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from tests.bounty.bug_world import AWARD, FIX, TEXT, BugWorld, trials_of
from tests.command_here import Command, command_here

API = "/api/v1/"
SHARE = AWARD * 3 // 10


@pytest.fixture
def world(db: None) -> BugWorld:
    return BugWorld()


def key_of(user: User, *scopes: str) -> str:
    return create_api_key(user=user, name="test", scopes=list(scopes or sorted(user.allowed_scopes)))[1]


def client_of(user: User, *scopes: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key_of(user, *scopes)}")
    return client


def page(path: str, user: User | None = None) -> str:
    client = Client()
    if user is not None:
        client.force_login(user)
    response = client.get(path)
    assert response.status_code == 200, response.content.decode()[:500]
    return response.content.decode()


def test_a_bug_is_opened_reproduced_and_paid_over_rest(world: BugWorld) -> None:
    mira, ann, anybody = client_of(world.mira), client_of(world.ann), APIClient()
    terms = {
        "title": "Wrong in batches",
        "lineage": world.lineage.name,
        "suite": "bug",
        "escrow_microcredits": AWARD,
        "severity": "critical",
        "award_microcredits": AWARD,
        "reproduction_ppm": 500_000,
    }
    opened = mira.post(f"{API}bounties/", terms, format="json")
    assert opened.status_code == 201, opened.content
    bounty = opened.json()
    assert (bounty["preset"], bounty["rate_microcredits_per_nat"], bounty["reproduction"]) == (
        "standard",
        0,
        None,
    )
    early = ann.post(f"{API}submissions/", {"bounty": bounty["id"], "diff": FIX}, format="json")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_reproduced")

    body = {"bounty": bounty["id"], "text": TEXT}
    assert anybody.post(f"{API}reproductions/", body, format="json").status_code == 401
    assert client_of(world.ann, "read").post(f"{API}reproductions/", body, format="json").status_code == 403
    made = ann.post(f"{API}reproductions/", body, format="json")
    assert made.status_code == 201, made.content
    path = f"{API}reproductions/{made.json()['id']}/"
    assert (made.json()["state"], made.json()["verdict"], made.json()["earns"]) == ("queued", None, True)
    world.try_out()
    settle(reproduction_id=Reproduction.objects.get().pk)
    seen = anybody.get(path).json()
    assert seen["state"] == "adopted" and seen["verdict"]["kind"] == "gain"
    assert anybody.get(f"{path}text/").content.decode() == TEXT
    assert anybody.get(f"{API}bounties/{bounty['id']}/").json()["reproduction"] == seen["id"]
    run = anybody.get(f"{API}runs/{seen['runs'][0]['id']}/").json()
    assert [trial["outcome"] for trial in run["trials"]][:3] == ["readable", "answered", "refused"]

    world.bug = type(world.bug).objects.get(pk=bounty["id"])
    submission = world.fix(world.bob)
    shown = anybody.get(f"{API}submissions/{submission.pk}/").json()
    shares = {share["role"]: (share["recipient"], share["amount_microcredits"]) for share in shown["shares"]}
    half = AWARD // 2
    assert shares == {"fix": (world.bob.username, AWARD - half), "reproduction": (world.ann.username, half)}
    assert shown["award"]["role"] == "fix"
    assert {award["role"] for award in anybody.get(f"{API}awards/").json()["results"]} == set(shares)


def test_rest_lists_reproductions_and_lets_a_maintainer_decline_one(world: BugWorld) -> None:
    made = world.adopted()
    ruth, ann = client_of(world.ruth), client_of(world.ann)
    for query in (
        {"bounty": world.bug.pk},
        {"author": "me"},
        {"author": world.ann.username},
        {"state": "adopted"},
    ):
        found = ann.get(f"{API}reproductions/", query).json()["results"]
        assert [row["id"] for row in found] == [str(made.pk)], query
    assert ann.get(f"{API}reproductions/", {"author": world.bob.username}).json()["results"] == []
    path = f"{API}reproductions/{made.pk}/decline/"
    assert ann.post(path, {"reason": "x"}, format="json").status_code == 403
    assert ruth.post(path, {}, format="json").status_code == 400
    done = ruth.post(path, {"reason": "it always fails"}, format="json").json()
    assert done["state"] == "declined" and done["changes"][-1]["reason"] == "it always fails"


def test_a_maintainer_opens_a_bug_with_a_reproduction_of_their_own(world: BugWorld) -> None:
    terms = {
        "title": "t",
        "lineage": world.lineage.name,
        "suite": "bug",
        "escrow_microcredits": AWARD,
        "severity": "low",
        "award_microcredits": AWARD,
        "reproduction": TEXT,
    }
    opened = client_of(world.mira).post(f"{API}bounties/", terms, format="json")
    assert opened.status_code == 201, opened.content
    assert not Reproduction.objects.get(bounty=opened.json()["id"]).earns
    assert (
        client_of(world.mira).post(f"{API}bounties/", {**terms, "severity": ""}, format="json").status_code
        == 400
    )


# -- the runner ---------------------------------------------------------------------------------------


def through_django(request: httpx.Request) -> httpx.Response:
    answer = Client().generic(
        request.method,
        request.url.raw_path.decode(),
        request.read(),
        content_type=request.headers.get("content-type", "application/octet-stream"),
        headers={"authorization": request.headers["authorization"]},
    )
    return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


def test_a_runner_is_given_the_reproduction_by_its_hash(world: BugWorld) -> None:
    made = world.reproduce(world.ann)
    world.submit(world.ann, FIX)  # a gain's run has none
    _, second = world.add_runner(generate_key(), host="two")
    given = {}
    for token in (world.token, second):
        client = RunnerClient("http://127.0.0.1", token, transport=httpx.MockTransport(through_django))
        run = client.lease(str(uuid4()))
        given[run.kind] = run.reproduction
        assert client.blob(made.blob).decode() == TEXT
        client.close()
    assert given == {"reproduction": made.blob, "gate": ""}


# -- pages --------------------------------------------------------------------------------------------


def test_the_bountys_page_says_that_it_is_a_bug_and_how_it_is_shared(world: BugWorld) -> None:
    path = f"/bounties/{world.bug.pk}/"
    html = page(path, world.bob)
    assert "No one has reproduced this bug yet" in html and "gainshare reproduce" in html
    assert "High" in html and "3.0000" not in html and "3 credits for the reproduction" in html
    assert "Submit a patch" not in html and "10 % faster" not in html
    world.adopted()
    html = page(path, world.bob)
    assert "Every fix is tested with it" in html and "def observe():" in html and "Submit a patch" in html
    decline(actor=world.ruth, reproduction_id=Reproduction.objects.get().pk, reason="it always fails")
    assert "declined" in page(path)


def test_the_list_says_what_a_bug_pays(world: BugWorld) -> None:
    html = page("/bounties/")
    assert "for the bug" in html and "high severity" in html and "for 10&nbsp;% faster" in html


def test_the_submissions_page_shows_attempts_and_both_shares(world: BugWorld) -> None:
    world.adopted()
    submission = world.fix()
    assert submission.state == SubmissionState.CONFIRMED
    html = page(f"/submissions/{submission.pk}/", world.ruth)
    assert html.count("shows the bug") == 3 and html.count("passes") >= 3
    assert "For the fix" in html and "For the reproduction" in html and world.ann.username in html
    assert (
        "Confirmed gain, at least" not in html
        and "<svg" not in html.split('class="trials"')[1].split("</section>")[0]
    )


def test_attempts_are_shown_with_what_they_mean_for_a_fix() -> None:
    base, patched = attempt_rows(trials_of("fix", base="refused", candidate="refused"))
    assert [(words, tone) for words, tone, _ in base.attempts] == [("shows the bug", "good")] * 3
    assert [(words, tone) for words, tone, _ in patched.attempts] == [("shows the bug", "bad")] * 3


def test_the_form_for_gains_does_not_offer_bugs(world: BugWorld) -> None:
    choices = [value for value, _ in BountyForm().fields["suite"].choices]  # type: ignore[attr-defined]
    assert choices and not [value for value in choices if value.startswith("bug/")]


# -- the command line ---------------------------------------------------------------------------------


@pytest.fixture
def gainshare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path / "home"))
    return command_here(monkeypatch, capfd)


@pytest.mark.django_db(transaction=True)
def test_the_command_submits_a_reproduction_and_prints_its_state(
    live_server: Any, gainshare: Command, tmp_path: Path
) -> None:
    world = BugWorld()
    file = tmp_path / "bug.py"
    file.write_text(TEXT)
    where = ("--url", live_server.url, "--key", key_of(world.ann))
    status, out, _ = gainshare("reproduce", str(world.bug.pk), str(file), "--json", *where)
    made = json.loads(out)
    assert (status, made["state"]) == (0, "queued")
    status, out, _ = gainshare("reproduce", str(world.bug.pk), str(tmp_path / "none.py"), "--json", *where)
    assert status == 1 and json.loads(out)["error"]["code"] == "unreadable"
    file.write_bytes(b"\xff")
    status, out, _ = gainshare("reproduce", str(world.bug.pk), str(file), "--json", *where)
    assert status == 1 and json.loads(out)["error"]["code"] == "binary"
    file.write_text(TEXT + "\n")
    status, out, _ = gainshare("reproduce", str(world.bug.pk), str(file), *where)
    assert status == 0 and ": queued" in out


def test_bench_passes_the_reproduction_on(gainshare: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    monkeypatch.setattr(os, "execv", lambda _program, argv: asked.append(argv))
    assert gainshare("bench", "--kind", "fix", "--reproduction", "bug.py", "--candidate", "fix.diff")[0] == 0
    words = " ".join(asked[0])
    assert "--kind fix" in words and "--reproduction bug.py" in words and "--candidate fix.diff" in words
