"""The webhook's door: what it takes, once, and what it refuses without keeping anything."""

import json
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client as Browser
from pytest_django import Settings

from bounty.github.events import door
from bounty.github.events.signatures import signature
from bounty.models import Command, Delivery, Head, PullRequest
from tests.bounty.conftest import Outbox
from tests.bounty.github.pulls.hub_world import DOOR, HubWorld, post

pytestmark = pytest.mark.django_db

SECRET = "s" * 20


def send(body: bytes, *, secret: str = SECRET, event: str = "push", **headers: str) -> Any:
    given = {
        "X-GitHub-Delivery": str(uuid4()),
        "X-GitHub-Event": event,
        "X-Hub-Signature-256": signature(body, secret),
        **headers,
    }
    return Browser().post(DOOR, body, content_type="application/json", headers=given)


@pytest.fixture
def secret(settings: Settings) -> str:
    settings.GITHUB_WEBHOOK_SECRETS = [SECRET, "old" * 9]
    return SECRET


def test_a_signed_delivery_is_kept_and_a_worker_is_woken(secret: str, outbox: Outbox) -> None:
    answer = send(b'{"ref": "refs/heads/main"}')
    delivery = Delivery.objects.get()
    assert (answer.status_code, answer.json()) == (202, {"outcome": "taken"})
    assert (delivery.event, delivery.payload) == ("push", {"ref": "refs/heads/main"})
    assert send(b"{}", secret="old" * 9).status_code == 202


def test_the_message_names_the_delivery(
    secret: str, outbox: Outbox, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        send(b"{}")
    assert outbox.of("bounty.tasks.process_delivery") == [str(Delivery.objects.get().pk)]


@pytest.mark.parametrize(
    "given", ["", "sha256=" + "0" * 64, signature(b"{}", "other"), signature(b"{} ", SECRET)]
)
def test_a_forged_delivery_is_refused_and_not_kept(secret: str, given: str) -> None:
    answer = send(b"{}", **{"X-Hub-Signature-256": given})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_signed")
    assert not Delivery.objects.exists()


def test_the_old_sha1_signature_does_not_count(secret: str) -> None:
    assert (
        send(b"{}", **{"X-Hub-Signature-256": "", "X-Hub-Signature": "sha1=" + "0" * 40}).status_code == 401
    )


def test_the_same_delivery_again_is_taken_and_kept_once(secret: str) -> None:
    name = {"X-GitHub-Delivery": str(uuid4())}
    assert [send(b"{}", **name).status_code for _ in range(2)] == [202, 202]
    assert Delivery.objects.count() == 1


def test_without_a_secret_nothing_is_taken_and_it_says_what_to_set(settings: Settings) -> None:
    settings.GITHUB_WEBHOOK_SECRETS = []
    answer = send(b"{}", secret="")
    assert answer.status_code == 403
    assert "GAINSHARE_GITHUB_WEBHOOK_SECRET" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_BODY_BYTES", 10)
    monkeypatch.setattr(door, "is_signed", lambda *_args, **_named: pytest.fail("it was read"))
    assert send(b'{"a": "0123456789"}').status_code == 413


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"payload=%7B%7D"]
)
def test_what_is_no_json_object_is_refused(secret: str, body: bytes) -> None:
    assert send(body).status_code == 400
    assert not Delivery.objects.exists()


def test_what_no_database_keeps_is_replaced(secret: str) -> None:
    body = json.dumps({"a\0": "b\0", "c": ["\ud800"]}).encode()
    assert send(body).status_code == 202
    assert Delivery.objects.get().payload == {"a\ufffd": "b\ufffd", "c": ["?"]}


def test_events_that_are_not_needed_are_not_kept(secret: str) -> None:
    assert send(b"{}", event="star").json() == {"outcome": "not needed"}
    assert send(b"{}", event="ping").status_code == 202
    assert not Delivery.objects.exists()


def test_a_delivery_without_an_id_is_refused(secret: str) -> None:
    assert send(b"{}", **{"X-GitHub-Delivery": "1; drop"}).status_code == 400


def test_a_get_is_refused(secret: str) -> None:
    assert Browser().get(DOOR).status_code == 405


def test_a_replay_under_another_id_does_nothing_twice(hub: HubWorld) -> None:
    """The signature does not cover the id, so the holder of one signed body can send it under others."""
    pull = hub.opens()
    hub.deliver()
    hub.says(pull, hub.cora, "/status")
    before = (PullRequest.objects.get().updated_at, Head.objects.count(), Command.objects.count())
    for row in list(hub.standin.deliveries.all):
        assert post(row, **{"X-GitHub-Delivery": str(uuid4())}).status_code == 202
    hub.work()
    assert (PullRequest.objects.get().updated_at, Head.objects.count(), Command.objects.count()) == before


def test_a_renewed_secret_is_taken_with_the_old_one(hub: HubWorld, settings: Settings) -> None:
    old = settings.GITHUB_WEBHOOK_SECRETS[0]
    settings.GITHUB_WEBHOOK_SECRETS = [hub.standin.rotate_secret(), old]
    hub.opens()
    hub.deliver()
    assert PullRequest.objects.count() == 1
