"""A new key's page: it shows the secret once, and making the key is not repeated by sending the form again."""

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import authenticate_key, draw_secret, order_api_key, revoke_api_key
from tests.gainshare.ledger.ledger_world import make_user
from tests.gainshare.ledger.test_concurrency import race

SECRET = re.compile(r"gs_[0-9a-f]+_[0-9a-f]+")
FORM = {"name": "laptop", "scopes": ["inference", "read"], "lifetime": "30"}


@pytest.fixture
def user(db: None) -> User:
    return make_user()


@pytest.fixture
def client(user: User) -> Client:
    signed_in = Client()
    signed_in.force_login(user)
    return signed_in


def test_a_new_key_is_shown_once_and_works(client: Client, user: User) -> None:
    answer = client.post("/keys/", FORM)
    assert answer.status_code == 302 and not SECRET.search(answer.content.decode())
    shown = client.get(answer.headers["Location"])
    found = SECRET.search(shown.content.decode())
    assert found is not None and "no-store" in shown.headers["Cache-Control"]
    key = authenticate_key(found[0])
    assert (key.user, key.scopes) == (user, ["inference", "read"])
    assert key.expires_at is not None
    assert timedelta(days=29) < key.expires_at - timezone.now() <= timedelta(days=30)
    again = client.get(answer.headers["Location"]).content.decode()
    assert not SECRET.search(again) and "cannot be shown again" in again
    listed = client.get("/keys/").content.decode()
    assert found[0] not in listed and key.prefix in listed
    assert ApiKey.objects.count() == 1
    assert authenticate_key(found[0]).pk == key.pk  # looking again changed nothing


def test_a_form_sent_twice_makes_one_key(client: Client) -> None:
    found = re.search(r'name="call_id" value="([0-9a-f-]{36})"', client.get("/keys/").content.decode())
    assert found is not None
    answers = [client.post("/keys/", {**FORM, "call_id": found[1]}) for _ in range(2)]
    assert answers[0].headers["Location"] == answers[1].headers["Location"]
    assert ApiKey.objects.count() == 1
    other = client.post("/keys/", {**FORM, "name": "desktop", "call_id": found[1]})
    html = other.content.decode()
    assert other.status_code == 400 and "already sent with other content" in html
    assert html.count(" checked") == 2 and found[1] not in html  # what was chosen stays, under a new id


def test_a_strangers_key_and_the_wrong_method_draw_nothing(client: Client, user: User) -> None:
    key = order_api_key(user=user, name="mine", scopes=["read"])
    stranger = Client()
    stranger.force_login(make_user())
    assert stranger.get(f"/keys/{key.prefix}/").status_code == 404
    assert client.head(f"/keys/{key.prefix}/").status_code == 405
    assert client.post(f"/keys/{key.prefix}/").status_code == 405
    assert "not shown yet" not in client.get("/account/").content.decode()
    assert f'href="/keys/{key.prefix}/"' in client.get("/keys/").content.decode()
    assert SECRET.search(client.get(f"/keys/{key.prefix}/").content.decode())


def test_a_revoked_or_expired_key_gets_no_secret(user: User) -> None:
    revoked = order_api_key(user=user, name="revoked", scopes=["read"])
    revoke_api_key(user=user, prefix=revoked.prefix)
    late = order_api_key(user=user, name="late", scopes=["read"])
    ApiKey.objects.filter(pk=late.pk).update(expires_at=timezone.now())
    assert [draw_secret(user=user, prefix=key.prefix) for key in (revoked, late)] == [None, None]


def test_a_key_without_its_secret_lets_no_one_in(user: User, client: Client) -> None:
    key = order_api_key(user=user, name="waits", scopes=["read"])
    for secret in ("", "0" * 64):
        answer = Client().get("/api/v1/users/me/", HTTP_AUTHORIZATION=f"Bearer gs_{key.prefix}_{secret}")
        assert answer.status_code == 401


@pytest.mark.django_db(transaction=True)
def test_two_who_look_at_once_see_one_secret() -> None:
    user = make_user()
    key = order_api_key(user=user, name="raced", scopes=["read"])
    drawn = race(*[lambda: draw_secret(user=user, prefix=key.prefix)] * 4)
    (raw,) = [text for text in drawn if text is not None]
    assert authenticate_key(raw).pk == key.pk


@pytest.mark.django_db(transaction=True)
def test_a_form_sent_twice_at_once_makes_one_key() -> None:
    user, call_id = make_user(), str(uuid4())

    def send() -> str:
        browser = Client()
        browser.force_login(user)
        return browser.post("/keys/", {**FORM, "call_id": call_id}).headers["Location"]

    assert len(set(race(*[send] * 4))) == 1
    assert ApiKey.objects.count() == 1
