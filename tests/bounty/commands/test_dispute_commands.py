"""Disputes over REST, and `gainshare dispute` and `gainshare disputes` against a real site over HTTP."""

import json
from typing import Any
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from bounty.models import Dispute
from bounty.services.disputes import answer_dispute, file_dispute
from gainshare.accounts.models import Scope, User
from gainshare.accounts.services import create_api_key
from gainshare.cli.output import console
from tests.bounty.bounty_world import World, diff_of_line
from tests.command_here import command_here

DIFF = diff_of_line(3, "step_3 = 33")
API = "/api/v1/"


def key_of(user: User, *scopes: str) -> str:
    return create_api_key(user=user, name="test", scopes=list(scopes or sorted(user.allowed_scopes)))[1]


def client_of(user: User, *scopes: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key_of(user, *scopes)}")
    return client


def test_a_dispute_is_filed_answered_and_read_over_rest(world: World) -> None:
    ann, mira, anybody = client_of(world.ann), client_of(world.mira), APIClient()
    submission = world.gate(world.submit(world.ann, DIFF), 0.0)
    path = f"{API}submissions/{submission.pk}/"
    made = ann.post(path + "dispute/", {"text": "It is faster at home."}, format="json")
    assert made.status_code == 201
    dispute = made.json()
    assert (dispute["state"], dispute["author"], dispute["answered_by"]) == ("open", world.ann.username, None)
    assert dispute["run"] == str(submission.verdict_run_id)
    again = ann.post(path + "dispute/", {"text": "And again."}, format="json")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_disputed")

    answer = f"{API}disputes/{dispute['id']}/answer/"
    body = {"answer": "remeasure", "text": "Let us see."}
    assert ann.post(answer, body, format="json").status_code == 403
    assert mira.post(answer, {"answer": "remeasure"}, format="json").status_code == 400
    done = mira.post(answer, body, format="json").json()
    assert (done["state"], done["answer"], done["answered_by"]) == (
        "remeasured",
        "Let us see.",
        world.mira.username,
    )
    assert anybody.get(path).json()["state"] == "being_judged"
    seen = mira.get(path).json()
    assert seen["state"] == "queued" and [one["id"] for one in seen["disputes"]] == [dispute["id"]]
    assert done["ordered_run"] in [run["id"] for run in seen["runs"]]
    assert anybody.get(f"{API}disputes/{dispute['id']}/").json()["state"] == "remeasured"


def test_what_cannot_be_disputed_has_its_code(world: World) -> None:
    ann, bob = client_of(world.ann), client_of(world.bob)
    submission = world.submit(world.ann, DIFF)
    path = f"{API}submissions/{submission.pk}/dispute/"
    for who, text, status, code in (
        (ann, "too early", 409, "wrong_state"),
        (bob, "not mine", 403, "not_allowed"),
        (ann, " ", 400, "invalid"),
        (client_of(world.ann, "read"), "no scope", 403, None),
        (APIClient(), "nobody", 401, None),
    ):
        answer = who.post(path, {"text": text}, format="json")
        assert answer.status_code == status, answer.content
        assert code is None or answer.json()["error"]["code"] == code
    assert ann.post(f"{API}submissions/{uuid4()}/dispute/", {"text": "?"}, format="json").status_code == 404
    assert ann.get(f"{API}disputes/{uuid4()}/").status_code == 404


def test_disputes_are_listed_and_filtered(world: World) -> None:
    first = world.gate(world.submit(world.ann, DIFF), 0.0)
    second = world.gate(world.submit(world.bob, diff_of_line(5, "step_5 = 55")), 0.0)
    made = file_dispute(actor=world.ann, submission_id=first.pk, text="one")
    file_dispute(actor=world.bob, submission_id=second.pk, text="two")
    answer_dispute(actor=world.mira, dispute_id=made.pk, answer="uphold", text="no")
    ann = client_of(world.ann)

    def texts(**query: str) -> list[str]:
        return [row["text"] for row in ann.get(f"{API}disputes/", query).json()["results"]]

    assert texts() == ["two", "one"]
    assert texts(state="open") == ["two"]
    assert texts(author="me") == ["one"] == texts(submission=str(first.pk))
    assert texts(author=world.bob.username) == ["two"]
    assert ann.get(f"{API}disputes/", {"submission": "x"}).status_code == 400


@pytest.mark.django_db(transaction=True)
def test_the_commands_file_and_list_disputes(
    live_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World()
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", key_of(world.ann, Scope.READ.value, Scope.SUBMIT.value))
    monkeypatch.setattr(console, "width", 240)
    gainshare = command_here(monkeypatch, capfd)
    submission = world.submit(world.ann, DIFF)
    status, out, err = gainshare("dispute", str(submission.pk), "--text", "too early")
    assert (status, out) == (1, "") and "no verdict to dispute" in err
    world.gate(submission, 0.0)
    assert gainshare("disputes")[1].strip() == "Disputes: none"
    status, out, _ = gainshare("dispute", str(submission.pk), "--text", "It is faster [bold]at home[/].")
    made = Dispute.objects.get()
    assert status == 0 and str(made.pk) in out and "no_gain" in out
    answer_dispute(actor=world.mira, dispute_id=made.pk, answer="uphold", text="See pair 3.")
    status, out, _ = gainshare("disputes", "--mine")
    assert status == 0 and "[bold]at home[/]" in out and "upheld" in out and "See pair 3." in out
    status, out, _ = gainshare("disputes", "--state", "open", "--json")
    assert (status, json.loads(out)["results"]) == (0, [])
    status, out, _ = gainshare("dispute", str(submission.pk), "--text", "Look again.", "--json")
    assert (status, json.loads(out)["state"]) == (0, "open")
    status, out, _ = gainshare("dispute", str(submission.pk), "--text", " ", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (2, "usage")
