"""Roles on the site: maintainers change them, except their own rights and the last maintainer's, and each
change is recorded."""

import pytest
from django.test import Client

from gainshare.accounts.models import RoleChange, User
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db
PATH = "/people/"


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def role_of(user: User) -> str:
    return User.objects.get(pk=user.pk).role


def test_a_maintainer_who_is_not_staff_appoints_and_dismisses_and_it_is_noted() -> None:
    boss, ann = make_user("maintainer"), make_user()
    client = client_of(boss)
    assert not boss.is_staff and f'href="{PATH}"' in client.get("/").content.decode()
    html = client.post(
        PATH, {"username": ann.username, "role": "maintainer", "reason": "<b>good</b> reviews"}, follow=True
    ).content.decode()
    assert f"{ann.username} is now a maintainer" in html and role_of(ann) == "maintainer"
    assert "&lt;b&gt;good&lt;/b&gt; reviews" in html
    for _ in range(2):  # sent twice, noted once
        client.post(PATH, {"username": ann.username, "role": "contributor"})
    assert role_of(ann) == "contributor"
    noted = list(RoleChange.objects.order_by("pk").values_list("user", "old", "new", "actor"))
    assert noted == [
        (ann.pk, "contributor", "maintainer", boss.pk),
        (ann.pk, "maintainer", "contributor", boss.pk),
    ]


def test_no_one_else_sees_or_uses_the_page() -> None:
    ann = make_user()
    client = client_of(ann)
    assert f'href="{PATH}"' not in client.get("/").content.decode()
    assert client.get(PATH).status_code == 403
    assert client.post(PATH, {"username": ann.username, "role": "maintainer"}).status_code == 403
    assert Client().get(PATH).headers["Location"] == f"/login/?next={PATH}"
    assert role_of(ann) == "contributor" and not RoleChange.objects.exists()


def test_no_one_promotes_themselves() -> None:
    root = User.objects.create_superuser("root", password="correct horse battery")
    html = client_of(root).post(PATH, {"username": "root", "role": "maintainer"}).content.decode()
    assert "You cannot give yourself more rights" in html and role_of(root) == "contributor"


def test_the_last_maintainer_stays_and_another_one_may_step_down() -> None:
    boss = make_user("maintainer")
    answer = client_of(boss).post(PATH, {"username": boss.username, "role": "contributor"})
    assert answer.status_code == 400 and "last maintainer" in answer.content.decode()
    make_user("maintainer")
    answer = client_of(boss).post(PATH, {"username": boss.username, "role": "contributor"}, follow=True)
    assert answer.redirect_chain == [("/account/", 302)] and role_of(boss) == "contributor"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"username": "nobody"}, "There is no user with this name"),
        ({"role": "king"}, "valid choice"),
        ({"reason": "x" * 301}, "at most 300 characters"),
    ],
)
def test_impossible_changes_are_refused_at_their_field(changes: dict[str, str], complaint: str) -> None:
    boss = make_user("maintainer")
    answer = client_of(boss).post(PATH, {"username": boss.username, "role": "maintainer", **changes})
    assert answer.status_code == 400 and complaint in answer.content.decode()


def test_the_administrators_form_shows_the_role_and_changes_none() -> None:
    root = User.objects.create_superuser("root", password="correct horse battery")
    ann = make_user()
    html = client_of(root).get(f"/admin/accounts/user/{ann.pk}/change/").content.decode()
    assert "Contributor" in html and 'name="role"' not in html
