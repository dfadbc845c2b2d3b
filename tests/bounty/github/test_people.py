"""Users of people on GitHub: found by number only, made once, and of no use to anybody until they sign in."""

import pytest
from django.contrib.auth import authenticate
from django.test import Client

from bounty.github.app.facts import AccountFacts
from bounty.github.people import BotAccount, account_of
from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.names import look_alike_key
from gainshare.accounts.services import (
    BadAccountData,
    NotAllowed,
    create_api_key,
    create_user,
    order_api_key,
    set_role,
)
from tests.bounty.services.test_races import at_once
from tests.gainshare.ledger.ledger_world import make_user

ANN = AccountFacts(12340, "ann")
PASSWORD = "correct horse battery"


@pytest.mark.django_db
def test_somebody_who_was_never_seen_gets_a_dormant_user() -> None:
    account = account_of(ANN)
    assert account.is_dormant and account.user.is_dormant
    assert (account.user.username, account.login) == ("github-12340", "ann")
    assert not account.user.has_usable_password() and account.user.role == "contributor"


@pytest.mark.django_db
def test_a_renamed_user_stays_the_same_person() -> None:
    before = account_of(ANN)
    after = account_of(AccountFacts(ANN.github_id, "ann-b"))
    assert (after.user, after.login) == (before.user, "ann-b")
    assert GitHubAccount.objects.get().login == "ann-b" and User.objects.count() == 1


@pytest.mark.django_db
def test_a_name_that_another_number_took_over_is_another_person() -> None:
    ann, other = account_of(ANN), account_of(AccountFacts(77, "ann"))
    assert ann.user != other.user
    assert GitHubAccount.objects.get(pk=ANN.github_id).login == "ann"


@pytest.mark.django_db
def test_an_account_of_the_same_name_or_mail_here_is_not_found() -> None:
    ann = create_user(username="ann", password=PASSWORD, email="ann@example.org")
    assert account_of(ANN).user != ann


@pytest.mark.django_db
def test_bots_get_no_account() -> None:
    with pytest.raises(BotAccount, match="bot"):
        account_of(AccountFacts(5, "renovate[bot]", is_bot=True))
    assert not User.objects.exists() and not GitHubAccount.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_many_events_at_once_make_one_user() -> None:
    at_once([lambda: account_of(ANN)] * 6)
    assert GitHubAccount.objects.count() == 1 and User.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    "name", ["github-12340", "GitHub-12340", "g1thub-1234O", "github-l234o", "github-ann"]
)
def test_nobody_can_take_a_name_that_looks_like_a_dormant_one(name: str) -> None:
    with pytest.raises(BadAccountData, match="github-"):
        create_user(username=name, password=PASSWORD)


@pytest.mark.django_db
def test_a_name_from_before_that_looks_alike_gives_the_dormant_user_another() -> None:
    before = User(username="github-l234o")
    before.set_unusable_password()
    before.save()
    made = account_of(ANN).user
    assert made.username == "github-12340.2"
    assert look_alike_key(made.username) != look_alike_key(before.username)


@pytest.mark.django_db
def test_a_dormant_user_cannot_sign_in_even_with_a_password_that_somebody_set() -> None:
    user = account_of(ANN).user
    user.set_password(PASSWORD)
    user.save()
    assert authenticate(username=user.username, password=PASSWORD) is None
    client = Client()
    assert client.post("/login/", {"username": user.username, "password": PASSWORD}).status_code == 200
    assert "_auth_user_id" not in client.session


@pytest.mark.django_db
def test_a_dormant_user_has_no_keys_and_no_role() -> None:
    user = account_of(ANN).user
    for make in (create_api_key, order_api_key):
        with pytest.raises(NotAllowed, match="dormant"):
            make(user=user, name="a", scopes=["read"])
    mira = make_user()
    mira.role = "maintainer"
    mira.save()
    with pytest.raises(NotAllowed, match="dormant"):
        set_role(actor=mira, username=user.username, role="maintainer")
