"""Signing in with GitHub, against the stand-in's OAuth: by number only, in one's own browser, under the same limits."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from django.contrib.sessions.models import Session
from django.test import Client, RequestFactory
from django.utils import timezone
from pytest_django import Settings

from bounty.github.standin.control.standin import StandIn, running
from bounty.github.standin.records import Account
from gainshare.accounts.entrance_limits import sign_up
from gainshare.accounts.github_accounts import github_account
from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.services import create_user
from tests.bounty.services.test_races import at_once

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


@pytest.fixture
def github(tmp_path: Path, settings: Settings) -> Iterator[StandIn]:
    with running(tmp_path / "github") as made:
        settings.GITHUB_URL, settings.GITHUB_API_URL = made.url, made.api_url
        settings.GITHUB_CLIENT_ID, settings.GITHUB_CLIENT_SECRET = made.app.client_id, made.app.client_secret
        yield made


@pytest.fixture
def nina(github: StandIn) -> Account:
    made = github.add_user("nina")
    made.created_at -= timedelta(days=31)
    return made


def start(client: Client, **fields: str) -> str:
    """The address at GitHub that the browser is led to."""
    answer = client.post("/github/start/", fields)
    assert answer.status_code == 200, answer.content
    return str(answer.context["address"])


def allow(github: StandIn, who: Account, address: str, **more: str) -> str:
    """The address that GitHub sends the browser back to, as path and query."""
    github.sign_in(who)
    back = requests.get(address, params=more, allow_redirects=False, timeout=10).headers["Location"]
    parts = urlsplit(back)
    return f"{parts.path}?{parts.query}"


def signs_in(client: Client, github: StandIn, who: Account, **fields: str) -> Any:
    """The answer to coming back from GitHub."""
    return client.get(allow(github, who, start(client, **fields)))


def enters(client: Client, github: StandIn, who: Account, name: str, **fields: str) -> Any:
    """The answer to choosing a name."""
    answer = signs_in(client, github, who, **fields)
    assert answer.status_code == 302 and answer["Location"] == "/github/welcome/", answer.content
    return client.post("/github/welcome/", {"username": name})


def who_is_in(client: Client) -> str:
    """The name of who is signed in; empty for no one."""
    pk = client.session.get("_auth_user_id")
    return User.objects.get(pk=pk).username if pk else ""


def sign_up_from(address: str) -> User:
    """A new account with a password, made from this address."""
    request = RequestFactory().post("/", REMOTE_ADDR=address)
    return sign_up(request=request, username=f"by-password-{address[-1]}", password=PASSWORD)


def logged_in(name: str = "ann") -> tuple[Client, User]:
    user = create_user(username=name, password=PASSWORD)
    client = Client()
    client.force_login(user)
    return client, user


# -- Signing in --------------------------------------------------------------------------------------


def test_whoever_has_no_account_gets_one_under_a_name_of_their_choice(github: StandIn, nina: Account) -> None:
    client = Client()
    answer = enters(client, github, nina, "nina-b", next="/bounties/")
    assert (answer.status_code, answer["Location"]) == (302, "/bounties/")
    assert who_is_in(client) == "nina-b"
    account = GitHubAccount.objects.get()
    assert (account.github_id, account.login, account.is_dormant) == (nina.github_id, "nina", False)
    assert not account.user.has_usable_password() and account.user.role == "contributor"
    again = Client()
    assert signs_in(again, github, nina)["Location"] == "/" and who_is_in(again) == "nina-b"


def test_a_dormant_user_wakes_under_a_name_chosen_once(github: StandIn, nina: Account) -> None:
    dormant = github_account(github_id=nina.github_id, login="nina").user
    dormant.set_password(PASSWORD)  # by somebody else
    dormant.save()
    client = Client()
    enters(client, github, nina, "nina")
    assert User.objects.get().pk == dormant.pk and who_is_in(client) == "nina"
    assert not GitHubAccount.objects.get().is_dormant
    assert not User.objects.get().has_usable_password()
    assert client.get("/github/welcome/")["Location"] == "/"
    assert client.post("/github/welcome/", {"username": "other"})["Location"] == "/"
    assert User.objects.get().username == "nina"


def test_only_the_number_finds_somebody(github: StandIn, nina: Account) -> None:
    """A new owner of the name, and an account here of that name and address, are other people."""
    enters(Client(), github, nina, "first")
    create_user(username="nina", password=PASSWORD, email="nina@users.noreply.github.com")
    github.rename_user(nina, "nina-moved")
    other = github.add_user("nina")
    client = Client()
    assert signs_in(client, github, other)["Location"] == "/github/welcome/" and who_is_in(client) == ""
    assert signs_in(client, github, nina)["Location"] == "/" and who_is_in(client) == "first"
    assert GitHubAccount.objects.get(pk=nina.github_id).login == "nina-moved"


@pytest.mark.parametrize("name", ["", "github-4711", "bad name", "ann", "Ann", "x" * 151])
def test_a_name_obeys_the_rules_of_names(github: StandIn, nina: Account, name: str) -> None:
    create_user(username="ann", password=PASSWORD)
    client = Client()
    answer = enters(client, github, nina, name)
    assert answer.status_code == 400 and "errorlist" in answer.content.decode()
    assert User.objects.count() == 1 and not GitHubAccount.objects.exists() and who_is_in(client) == ""


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_it_leads_to_pages_of_this_site_only(github: StandIn, nina: Account, target: str) -> None:
    assert enters(Client(), github, nina, "nina", next=target)["Location"] == "/"
    assert signs_in(Client(), github, nina, next=target)["Location"] == "/"


def test_without_a_client_there_is_nothing_of_it(db: None) -> None:
    client, _ = logged_in()
    for page in ("/login/", "/signup/"):
        assert "GitHub" not in Client().get(page).content.decode()
    assert "Link GitHub" not in client.get("/account/").content.decode()
    assert Client().post("/github/start/").status_code == 404
    assert Client().get("/github/callback/?code=a&state=b").status_code == 404
    assert Client().get("/github/welcome/").status_code == 404


@pytest.mark.parametrize("name", ["GITHUB_URL", "GITHUB_API_URL"])
def test_it_is_not_offered_where_tokens_would_be_sent_in_clear_text(
    github: StandIn, settings: Settings, name: str
) -> None:
    setattr(settings, name, "http://github.example")
    assert "GitHub" not in Client().get("/login/").content.decode()
    assert Client().post("/github/start/").status_code == 404


def test_the_pages_offer_it_where_there_is_a_client(github: StandIn) -> None:
    client, _ = logged_in()
    assert "Log in with GitHub" in Client().get("/login/").content.decode()
    assert "Sign up with GitHub" in Client().get("/signup/").content.decode()
    assert "Link GitHub" in client.get("/account/").content.decode()


# -- Attacks -----------------------------------------------------------------------------------------


def test_it_cannot_be_started_from_another_site(github: StandIn) -> None:
    assert Client(enforce_csrf_checks=True).post("/github/start/").status_code == 403
    assert Client().get("/github/start/").status_code == 405


def test_an_answer_to_another_browser_is_refused(github: StandIn, nina: Account) -> None:
    """Login CSRF: the victim is sent to the attacker's answer, and would work in the attacker's account."""
    enters(Client(), github, nina, "mallory")
    attacker, victim = Client(), Client()
    theirs = allow(github, nina, start(attacker))
    start(victim)  # a sign-in of their own has begun
    answer = victim.get(theirs)
    assert answer.status_code == 400 and "not started in this browser" in answer.content.decode()
    assert who_is_in(victim) == "" and who_is_in(Client()) == ""
    assert attacker.get(theirs).status_code == 302  # the code was not even spent


def test_a_stolen_code_is_worth_nothing_in_another_session(github: StandIn, nina: Account) -> None:
    """The thief answers a sign-in of their own with the code of somebody else: GitHub wants the verifier (PKCE)."""
    enters(Client(), github, nina, "nina")
    victim, thief = Client(), Client()
    code = parse_qs(urlsplit(allow(github, nina, start(victim))).query)["code"][0]
    state = parse_qs(urlsplit(start(thief)).query)["state"][0]
    answer = thief.get("/github/callback/", {"code": code, "state": state})
    assert answer.status_code == 400 and who_is_in(thief) == ""
    assert Client().get("/github/callback/", {"code": code, "state": state}).status_code == 400


def test_an_answer_counts_once(github: StandIn, nina: Account) -> None:
    client = Client()
    address = start(client)
    back, again = allow(github, nina, address), allow(github, nina, address)  # two codes for one state
    other = Client()
    other.cookies["sessionid"] = str(client.session.session_key)
    assert client.get(back)["Location"] == "/github/welcome/"
    assert client.get(back).status_code == client.get(again).status_code == 400
    assert other.get(again).status_code == 400


def test_an_answer_after_ten_minutes_is_refused(
    github: StandIn, nina: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    back = allow(github, nina, start(client))
    monkeypatch.setattr("gainshare.web.views.github.ANSWER_S", -1)
    assert client.get(back).status_code == 400 and not GitHubAccount.objects.exists()


@pytest.mark.parametrize(
    "query", ["", "code=a", "state=", "code=a&state=", "code=a&state=%00%ff", "state=b&code=" + "a" * 5000]
)
def test_answers_without_a_state_are_refused(github: StandIn, query: str) -> None:
    client = Client()
    start(client)
    assert client.get(f"/github/callback/?{query}").status_code == 400


def test_a_refusal_at_github_signs_nobody_in(github: StandIn, nina: Account) -> None:
    client = Client()
    answer = client.get(allow(github, nina, start(client), refuse="1"), follow=True)
    assert "not allowed there" in answer.content.decode() and who_is_in(client) == ""


def test_a_session_from_before_is_not_the_one_that_is_signed_in(github: StandIn, nina: Account) -> None:
    """Session fixation: the one who planted the cookie does not have the session afterwards."""
    client = Client()
    planted = client.session
    planted["x"] = 1
    planted.save()
    keys = {str(planted.session_key)}
    client.cookies["sessionid"] = str(planted.session_key)
    address = start(client)
    keys.add(str(client.session.session_key))
    client.get(allow(github, nina, address))
    keys.add(str(client.session.session_key))
    client.post("/github/welcome/", {"username": "nina"})
    keys.add(str(client.session.session_key))
    assert len(keys) == 4 and who_is_in(client) == "nina"
    assert Session.objects.count() == 1


def test_a_name_cannot_be_chosen_without_coming_from_github(github: StandIn) -> None:
    assert Client().post("/github/welcome/", {"username": "nina"})["Location"] == "/login/"
    assert not User.objects.exists()


def test_no_secret_is_logged_or_kept(
    github: StandIn, nina: Account, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        client = Client()
        back = allow(github, nina, start(client))
        client.get(back)
        client.post("/github/welcome/", {"username": "nina"})
    tokens = [text for text in github.hub.state.tokens if text.startswith("gho_")]
    code = parse_qs(urlsplit(back).query)["code"][0]
    state = parse_qs(urlsplit(back).query)["state"][0]
    kept = str([session.get_decoded() for session in Session.objects.all()])
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "/login/oauth/access_token" in logged
    assert tokens and who_is_in(client) == "nina"
    for secret in (*tokens, code, github.app.client_secret):
        assert secret not in kept and secret not in logged
    assert state not in kept


def test_github_that_does_not_answer_signs_nobody_in(
    github: StandIn, nina: Account, settings: Settings
) -> None:
    client = Client()
    back = allow(github, nina, start(client))
    settings.GITHUB_URL = "http://127.0.0.1:9"
    answer = client.get(back)
    assert answer.status_code == 502 and "Try again" in answer.content.decode()


def test_a_wrong_client_secret_is_refused_without_repeating_it(
    github: StandIn, nina: Account, settings: Settings
) -> None:
    settings.GITHUB_CLIENT_SECRET = "not-the-secret"
    client = Client()
    answer = signs_in(client, github, nina)
    assert answer.status_code == 502 and "not-the-secret" not in answer.content.decode()


# -- Limits ------------------------------------------------------------------------------------------


def test_sign_ins_of_an_address_are_limited_before_github_is_asked(
    github: StandIn, nina: Account, settings: Settings
) -> None:
    settings.SIGN_INS_PER_HOUR = 2
    client = Client(REMOTE_ADDR="192.0.2.1")
    back = [allow(github, nina, start(client)) for _ in range(2)]
    assert client.post("/github/start/").status_code == 429
    assert [client.get(address).status_code for address in back] == [400, 302]
    asked = len(github.requests)
    answer = client.get("/github/callback/?code=a&state=b")
    assert answer.status_code == 429 and answer["Retry-After"] and len(github.requests) == asked


def test_new_accounts_of_an_address_are_limited_as_sign_ups_are(
    github: StandIn, nina: Account, settings: Settings
) -> None:
    settings.SIGN_UPS_PER_HOUR = 1
    enters(Client(), github, nina, "nina")
    other = github.add_user("other")
    assert enters(Client(), github, other, "other").status_code == 429
    assert User.objects.count() == 1


@pytest.mark.parametrize("is_dormant", [True, False])
def test_a_flood_of_sign_ups_with_passwords_delays_no_one_whom_github_vouches_for(
    github: StandIn, nina: Account, settings: Settings, is_dormant: bool
) -> None:
    settings.ALL_SIGN_UPS_PER_HOUR = 1
    made = [sign_up_from(f"192.0.2.{place}") for place in range(1, 4)]
    assert made[1].is_waiting and made[2].is_waiting
    if is_dormant:
        github_account(github_id=nina.github_id, login="nina")
    client = Client()
    assert enters(client, github, nina, "nina").status_code == 302 and who_is_in(client) == "nina"
    assert not User.objects.get(username="nina").is_waiting


def test_an_account_that_is_new_at_github_waits_its_turn_as_one_with_a_password_does(
    github: StandIn, settings: Settings
) -> None:
    """A script can make as many there as here, so many of them are as little as many passwords."""
    settings.ALL_SIGN_UPS_PER_HOUR = 1
    first, second = github.add_user("first"), github.add_user("second")
    first.created_at -= timedelta(days=29)
    client = Client()
    assert enters(client, github, first, "first").status_code == 302 and who_is_in(client) == "first"
    other = Client()
    refused = enters(other, github, second, "second")
    assert refused.status_code == 403 and b"waits its turn" in refused.content and who_is_in(other) == ""
    assert signs_in(other, github, second).status_code == 403, "its name is chosen, and it still waits"
    made = User.objects.get(username="second")
    assert made.is_waiting and GitHubAccount.objects.get(user=made).github_id == second.github_id
    User.objects.filter(pk=made.pk).update(active_from=timezone.now())
    assert signs_in(other, github, second).status_code == 302 and who_is_in(other) == "second"


def test_a_dormant_user_of_a_new_account_does_not_wait(github: StandIn, settings: Settings) -> None:
    settings.ALL_SIGN_UPS_PER_HOUR = 1
    sign_up_from("192.0.2.1")
    new = github.add_user("new")
    github_account(github_id=new.github_id, login="new")
    client = Client()
    assert enters(client, github, new, "new").status_code == 302 and who_is_in(client) == "new"


def test_entering_with_github_takes_no_place_in_the_queue_of_new_accounts(
    github: StandIn, nina: Account, settings: Settings
) -> None:
    settings.ALL_SIGN_UPS_PER_HOUR = 1
    enters(Client(), github, nina, "nina")
    assert not sign_up_from("192.0.2.1").is_waiting


def test_where_sign_up_is_closed_only_a_dormant_user_can_wake(
    github: StandIn, nina: Account, settings: Settings
) -> None:
    settings.OPEN_SIGNUP = False
    answer = signs_in(Client(), github, nina)
    assert answer.status_code == 403 and "closed" in answer.content.decode() and not User.objects.exists()
    github_account(github_id=nina.github_id, login="nina")
    client = Client()
    enters(client, github, nina, "nina")
    assert who_is_in(client) == "nina"


@pytest.mark.parametrize("is_dormant", [True, False])
def test_an_account_that_was_switched_off_stays_off(github: StandIn, nina: Account, is_dormant: bool) -> None:
    if is_dormant:
        github_account(github_id=nina.github_id, login="nina")
    else:
        enters(Client(), github, nina, "nina")
    User.objects.update(is_active=False)
    client = Client()
    assert signs_in(client, github, nina).status_code == 403 and who_is_in(client) == ""


@pytest.mark.django_db(transaction=True)
def test_two_browsers_of_one_person_at_once_make_one_account(github: StandIn, nina: Account) -> None:
    clients = [Client(), Client()]
    for client in clients:
        signs_in(client, github, nina)

    def chooses(place: int) -> int:
        answer = clients[place].post("/github/welcome/", {"username": f"nina-{'ab'[place]}"})
        return int(answer.status_code)

    assert at_once([lambda: chooses(0), lambda: chooses(1)]) == [302, 302]
    assert User.objects.count() == 1 and GitHubAccount.objects.count() == 1
    assert who_is_in(clients[0]) == who_is_in(clients[1]) == User.objects.get().username


# -- Linking -----------------------------------------------------------------------------------------


def test_a_signed_in_user_links_an_account(github: StandIn, nina: Account) -> None:
    client, ann = logged_in()
    assert signs_in(client, github, nina)["Location"] == "/account/"
    account = GitHubAccount.objects.get()
    assert account.user == ann and not account.is_dormant
    page = client.get("/account/").content.decode()
    assert f"{github.url}/nina" in page and "Link GitHub" not in page
    assert signs_in(client, github, nina)["Location"] == "/account/"  # again changes nothing
    other = Client()
    signs_in(other, github, nina)
    assert who_is_in(other) == "ann"


def test_a_number_that_is_linked_cannot_be_linked_to_another(github: StandIn, nina: Account) -> None:
    client, ann = logged_in()
    signs_in(client, github, nina)
    thief, _ = logged_in("bob")
    answer = signs_in(thief, github, nina)
    assert answer.status_code == 409 and "linked to another account" in answer.content.decode()
    assert GitHubAccount.objects.get().user == ann


def test_an_account_has_one_number(github: StandIn, nina: Account) -> None:
    client, _ann = logged_in()
    signs_in(client, github, nina)
    answer = signs_in(client, github, github.add_user("second"))
    assert answer.status_code == 409 and GitHubAccount.objects.get().github_id == nina.github_id


def test_a_dormant_user_that_did_nothing_gives_its_number_to_who_links_it(
    github: StandIn, nina: Account
) -> None:
    dormant = github_account(github_id=nina.github_id, login="nina").user
    client, ann = logged_in()
    signs_in(client, github, nina)
    assert GitHubAccount.objects.get().user == ann
    dormant.refresh_from_db()
    assert not dormant.is_active and not dormant.is_dormant


def test_what_was_started_signed_in_does_not_end_signed_out_or_as_another(
    github: StandIn, nina: Account
) -> None:
    client, _ann = logged_in()
    back = allow(github, nina, start(client))
    session = client.session
    session["_auth_user_id"] = str(create_user(username="bob", password=PASSWORD).pk)
    session["_auth_user_hash"] = User.objects.get(username="bob").get_session_auth_hash()
    session.save()
    assert client.get(back).status_code == 400 and not GitHubAccount.objects.exists()


def test_what_was_started_signed_out_links_nobody(github: StandIn, nina: Account) -> None:
    """The victim logs in while the attacker's answer is under way in the same browser."""
    client = Client()
    back = allow(github, nina, start(client))
    create_user(username="ann", password=PASSWORD)
    client.post("/login/", {"username": "ann", "password": PASSWORD})
    assert client.get(back).status_code == 400
    assert not GitHubAccount.objects.exists() and who_is_in(client) == "ann"
