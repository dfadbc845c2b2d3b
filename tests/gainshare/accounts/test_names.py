"""User names: a new name cannot look like an existing one, and older names stay."""

from importlib import import_module
from uuid import uuid4

import pytest
from django.apps import apps
from django.test import Client

from gainshare.accounts.models import User
from gainshare.accounts.names import look_alike_key
from gainshare.accounts.services import BadAccountData, UsernameTaken, create_user
from tests.gainshare.ledger.test_concurrency import race

PASSWORD = "correct horse battery"
CYRILLIC = "\N{CYRILLIC SMALL LETTER A}dmin"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "name",
    [
        CYRILLIC,
        "\N{FULLWIDTH LATIN SMALL LETTER A}dmin",
        "adm\N{LATIN SMALL LETTER DOTLESS I}n",
        "ad\N{ZERO WIDTH SPACE}min",
        "admin\n",
        "j\N{LATIN SMALL LETTER O WITH DIAERESIS}rg",
        "\N{ARABIC-INDIC DIGIT THREE}",
    ],
)
def test_letters_that_pass_for_others_are_refused(name: str) -> None:
    with pytest.raises(BadAccountData, match="a to z"):
        create_user(username=name, password=PASSWORD)
    Client().post("/signup/", {"username": name, "password": PASSWORD, "password_again": PASSWORD})
    assert not User.objects.exclude(username="admin").exists()


@pytest.mark.django_db
@pytest.mark.parametrize("again", ["Admin", "ADMIN", "adm1n", "admln", "adrnin", "AdmIn"])
def test_a_name_that_looks_like_another_one_is_taken(again: str) -> None:
    create_user(username="admin", password=PASSWORD)
    with pytest.raises(UsernameTaken, match="looks like"):
        create_user(username=again, password=PASSWORD)
    answer = Client().post(
        "/api/v1/users/", {"username": again, "password": PASSWORD}, content_type="application/json"
    )
    assert answer.status_code == 409
    assert User.objects.count() == 1


@pytest.mark.django_db
def test_names_that_only_resemble_each_other_are_free() -> None:
    names = {"ann", "anna", "ann.b", "ann_b", "ann-b", "ann@example.org", "an"}
    for name in names:
        create_user(username=name, password=PASSWORD)
    assert set(User.objects.values_list("username", flat=True)) == names


@pytest.mark.django_db
def test_a_user_from_before_the_rule_keeps_the_name() -> None:
    old = User(username=CYRILLIC)
    old.set_password(PASSWORD)
    old.save()
    assert old.name_key == look_alike_key(CYRILLIC)
    client = Client()
    assert client.post("/login/", {"username": CYRILLIC, "password": PASSWORD}).status_code == 302
    old.email = "old@example.org"
    old.full_clean()
    old.save()
    old.username = f"{CYRILLIC}2"
    with pytest.raises(Exception, match="a to z"):
        old.full_clean()


@pytest.mark.django_db
def test_the_migration_gives_the_names_from_before_their_keys() -> None:
    for name in (CYRILLIC, "admin", "adm1n"):  # all three were possible, and all stay
        User.objects.create(username=name)
    User.objects.update(name_key="")
    import_module("gainshare.accounts.migrations.0003_names_roles_and_call_ids").fill_name_keys(apps, None)
    assert {user.name_key for user in User.objects.all()} == {look_alike_key(CYRILLIC), "admln"}
    with pytest.raises(UsernameTaken):
        create_user(username="ADMIN", password=PASSWORD)


@pytest.mark.django_db
@pytest.mark.parametrize("name", [CYRILLIC, "adm1n", "Admin"])
def test_the_administrators_form_keeps_the_rule(name: str) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("admin", password=PASSWORD))
    form = {"username": name, "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    answer = client.post("/admin/accounts/user/add/", form)
    assert answer.status_code == 200 and User.objects.count() == 1
    assert client.post("/admin/accounts/user/add/", {**form, "username": "ann"}).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_of_two_look_alikes_at_once_one_is_made() -> None:
    name = f"lily{uuid4().hex[:6]}"

    def sign_up(username: str) -> str:
        try:
            return create_user(username=username, password=PASSWORD).username
        except UsernameTaken:
            return ""

    made = race(lambda: sign_up(name), lambda: sign_up(name.replace("l", "1")), lambda: sign_up(name.upper()))
    assert len([username for username in made if username]) == 1
    assert User.objects.count() == 1
