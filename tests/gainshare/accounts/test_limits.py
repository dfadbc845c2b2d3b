"""Limits on signing up and on passwords: by address, by account, over processes, and no lasting lock-out."""

import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import aauthenticate
from django.db import connection, connections
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from gainshare.accounts.models import Allowance, SignInPlace, User
from gainshare.accounts.rate_limits import Rate, TooManyAttempts, forget_full, give_back, network_of, take
from gainshare.accounts.services import create_api_key, create_user
from gainshare.accounts.tasks import forget_attempts

PASSWORD = "correct horse battery"
HOME, AWAY, STRANGER = "192.0.2.1", "192.0.2.2", "198.51.100.7"
HOURLY = Rate(3)


class Clock:
    """Fake of Django's clock that advances when told to."""

    def __init__(self) -> None:
        self.now = timezone.now()

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timezone, "now", clock)
    return clock


@pytest.fixture
def ann(db: Any) -> User:
    return create_user(username="ann", password=PASSWORD)


def keys_by_password(password: str = PASSWORD, *, address: str, username: str = "ann") -> Any:
    """The answer to GET keys/ with HTTP Basic from `address`."""
    token = base64.b64encode(f"{username}:{password}".encode()).decode()
    return APIClient().get(
        "/api/v1/keys/",
        HTTP_AUTHORIZATION=f"Basic {token}",
        REMOTE_ADDR=address,
        HTTP_X_FORWARDED_FOR="203.0.113.9",
    )


def signed_up(username: str, *, address: str = HOME, client: APIClient | None = None) -> Any:
    body = {"username": username, "password": PASSWORD}
    return (client or APIClient()).post("/api/v1/users/", body, format="json", REMOTE_ADDR=address)


def tries(who: str, number: int = 10) -> int:
    """Number of allowed tries, of `number`."""
    allowed = 0
    for _ in range(number):
        try:
            take(what="tries", who=who, rate=HOURLY)
        except TooManyAttempts:
            continue
        allowed += 1
    return allowed


@pytest.mark.django_db
def test_an_allowance_fills_up_evenly_and_refusals_take_nothing(clock: Clock) -> None:
    assert tries("ann") == 3
    with pytest.raises(TooManyAttempts) as caught:
        take(what="tries", who="ann", rate=HOURLY)
    assert caught.value.headers == {"Retry-After": "1200"}
    assert caught.value.message == "Too many tries. Try again in 20 minutes."
    clock.pass_by(minutes=19, seconds=59)
    assert tries("ann") == 0
    clock.pass_by(seconds=1)
    assert tries("ann") == 1
    clock.pass_by(days=400)
    assert tries("ann") == 3
    assert tries("bob") == 3


@pytest.mark.django_db
def test_a_try_can_be_given_back(clock: Clock) -> None:
    for _ in range(10):
        take(what="tries", who="ann", rate=HOURLY)
        give_back(what="tries", who="ann", rate=HOURLY)
    assert tries("ann") == 3


@pytest.mark.django_db(transaction=True)
def test_tries_at_the_same_time_are_counted_one_by_one() -> None:
    def attempt(_: int) -> int:
        try:
            return tries("ann", 1)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(24))) == 3


@pytest.mark.django_db
def test_what_says_nothing_any_more_is_deleted(clock: Clock, ann: User) -> None:
    tries("ann")
    assert keys_by_password(address=HOME).status_code == 200
    assert forget_full(now=clock.now) == 1  # the good password's, which was given back
    assert Allowance.objects.count() == 2
    clock.pass_by(days=29)
    forget_attempts()
    assert (Allowance.objects.count(), SignInPlace.objects.count()) == (0, 1)
    clock.pass_by(days=2)
    forget_attempts()
    assert SignInPlace.objects.count() == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("somewhere", "somewhere"),
        ("", ""),
    ],
)
def test_whom_an_address_belongs_to(address: str, network: str) -> None:
    request = HttpRequest()
    request.META = {"REMOTE_ADDR": address, "HTTP_X_FORWARDED_FOR": "203.0.113.9"}
    assert network_of(request) == network


@pytest.mark.django_db
def test_sign_ups_are_limited_by_address(settings: Any, ann: User) -> None:
    settings.SIGN_UPS_PER_HOUR = 2
    assert [signed_up(f"new{i}").status_code for i in range(3)] == [201, 201, 429]
    answer = signed_up("new3")
    assert answer.json()["error"]["code"] == "rate_limited"
    assert 1700 < int(answer.headers["Retry-After"]) <= 1800
    assert not User.objects.filter(username__in=["new2", "new3"]).exists()
    assert signed_up("new4", address=AWAY).status_code == 201
    page = Client(REMOTE_ADDR=HOME).post(
        "/signup/", {"username": "new5", "password": PASSWORD, "password_again": PASSWORD}
    )
    assert (page.status_code, User.objects.filter(username="new5").exists()) == (429, False)
    assert "Retry-After" in page.headers


@pytest.mark.django_db
def test_names_that_are_taken_count_as_sign_ups(settings: Any, ann: User) -> None:
    settings.SIGN_UPS_PER_HOUR = 2
    assert [signed_up("ann").status_code for _ in range(3)] == [409, 409, 429]


@pytest.mark.django_db
def test_a_maintainer_makes_as_many_accounts_as_needed(settings: Any) -> None:
    settings.SIGN_UPS_PER_HOUR = 1
    boss = create_user(username="boss", password=PASSWORD, role="maintainer")
    client = APIClient()
    client.credentials(
        HTTP_AUTHORIZATION="Bearer " + create_api_key(user=boss, name="k", scopes=["maintain"])[1]
    )
    assert [signed_up(f"new{i}", client=client).status_code for i in range(3)] == [201] * 3


@pytest.mark.django_db
def test_passwords_tried_are_limited_by_address(settings: Any, ann: User) -> None:
    """Good ones too: each costs the platform a slow hash."""
    settings.SIGN_INS_PER_HOUR = 2
    assert keys_by_password(address=HOME).status_code == 200
    assert keys_by_password("wrong", address=HOME, username="nobody").status_code == 401
    answer = keys_by_password(address=HOME)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    assert int(answer.headers["Retry-After"]) > 0
    assert keys_by_password(address=AWAY).status_code == 200


@pytest.mark.django_db
def test_wrong_passwords_are_limited_by_account_over_all_addresses(
    settings: Any, clock: Clock, ann: User
) -> None:
    settings.WRONG_PASSWORDS_PER_HOUR = 2
    assert keys_by_password("wrong", address="198.51.100.1").status_code == 401
    assert keys_by_password("wrong", address="198.51.100.2", username="ANN").status_code == 401
    assert keys_by_password("wrong", address="198.51.100.3").status_code == 429
    assert keys_by_password(address="198.51.100.4").status_code == 429  # nor is a right one found out
    clock.pass_by(minutes=30)
    assert keys_by_password(address="198.51.100.4").status_code == 200


@pytest.mark.django_db
def test_a_stranger_does_not_keep_an_owner_out(settings: Any, clock: Clock, ann: User) -> None:
    """Of an address that the owner has signed in from, of keys, and of sessions."""
    settings.WRONG_PASSWORDS_PER_HOUR = 2
    key = create_api_key(user=ann, name="k", scopes=["read"])[1]
    browser = Client(REMOTE_ADDR=AWAY)
    assert browser.post("/login/", {"username": "ann", "password": PASSWORD}).status_code == 302
    assert keys_by_password(address=HOME).status_code == 200
    for _ in range(4):
        keys_by_password("wrong", address=STRANGER)
    assert keys_by_password("wrong", address=STRANGER).status_code == 429
    for _ in range(5):
        assert keys_by_password(address=HOME).status_code == 200
    assert browser.get("/keys/").status_code == 200
    assert APIClient().get("/api/v1/users/me/", HTTP_AUTHORIZATION=f"Bearer {key}").status_code == 200
    statuses = [keys_by_password("wrong", address=HOME).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]  # a known address may guess no more than others


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_pages_for_signing_in_have_the_same_limits(settings: Any, ann: User, path: str) -> None:
    settings.WRONG_PASSWORDS_PER_HOUR = 2
    client = Client(REMOTE_ADDR=STRANGER)
    answers = [client.post(path, {"username": "ann", "password": "wrong"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "Too many wrong passwords for this account" in answers[-1].content.decode()
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 1800
    assert keys_by_password(address=AWAY).status_code == 429  # one allowance for all ways in


@pytest.mark.django_db(transaction=True)
async def test_asynchronous_sign_ins_have_the_same_limits(settings: Any) -> None:
    settings.SIGN_INS_PER_HOUR = 1
    request = HttpRequest()
    request.META["REMOTE_ADDR"] = HOME
    assert await aauthenticate(request, username="nobody", password="wrong") is None
    with pytest.raises(TooManyAttempts):
        await aauthenticate(request, username="nobody", password="wrong")
    await sync_to_async(connections.close_all)()  # of the thread that the database was asked in


@pytest.mark.django_db
def test_names_and_addresses_are_not_stored(ann: User) -> None:
    keys_by_password(address=HOME)
    keys_by_password("wrong", address=STRANGER, username="a password typed as a name")
    stored = str([*Allowance.objects.values(), *SignInPlace.objects.values()])
    assert not [text for text in (HOME, STRANGER, "typed", "ann") if text in stored]


@pytest.mark.django_db
def test_above_the_rate_over_all_addresses_accounts_wait_their_turn(settings: Any, clock: Clock) -> None:
    settings.ALL_SIGN_UPS_PER_HOUR = 2
    made = [signed_up(f"new{i}", address=f"192.0.2.{i}") for i in range(4)]
    assert [answer.status_code for answer in made] == [201] * 4  # no one is refused
    due = [answer.json()["active_from"] for answer in made]
    assert due[:2] == [None, None]
    waits = [datetime.fromisoformat(text) - clock.now for text in due[2:]]
    assert waits == [timedelta(minutes=30), timedelta(hours=1)]

    answer = keys_by_password(address=AWAY, username="new3")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "account_waits")
    message = answer.json()["error"]["message"]
    assert f"{clock.now + timedelta(hours=1):%Y-%m-%d %H:%M} UTC" in message and "1 are before it" in message
    assert keys_by_password("wrong", address=AWAY, username="new3").status_code == 401
    page = Client(REMOTE_ADDR=AWAY).post("/login/", {"username": "new3", "password": PASSWORD})
    assert page.status_code == 403 and "waits its turn" in page.content.decode()

    clock.pass_by(minutes=30)
    assert keys_by_password(address=AWAY, username="new2").status_code == 200
    assert keys_by_password(address=AWAY, username="new3").status_code == 403
    clock.pass_by(minutes=30)
    assert keys_by_password(address=AWAY, username="new3").status_code == 200


@pytest.mark.django_db
def test_the_sign_up_page_tells_when_a_waiting_account_becomes_active(settings: Any) -> None:
    settings.ALL_SIGN_UPS_PER_HOUR = 1
    signed_up("first", address=AWAY)
    client = Client(REMOTE_ADDR=HOME)
    page = client.post("/signup/", {"username": "second", "password": PASSWORD, "password_again": PASSWORD})
    person = User.objects.get(username="second")
    assert page.status_code == 202 and person.active_from is not None
    text = page.content.decode()
    assert "waits its turn" in text and f"{person.active_from:%H:%M}" in text
    assert client.get("/account/").status_code == 302  # not logged in


@pytest.mark.django_db
def test_a_name_that_is_taken_takes_no_turn_from_others(settings: Any, ann: User) -> None:
    settings.ALL_SIGN_UPS_PER_HOUR = 1
    assert [signed_up("ann").status_code for _ in range(3)] == [409] * 3
    assert signed_up("new").json()["active_from"] is None
