"""Users and roles: valid names, and permissions to change roles."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from gainshare.accounts.models import User
from gainshare.accounts.services import (
    BadAccountData,
    DomainError,
    LastMaintainer,
    NotAllowed,
    NotFound,
    UsernameTaken,
    create_user,
    set_role,
)
from tests.gainshare.ledger.ledger_world import make_user

PASSWORD = "correct horse battery"


@pytest.mark.django_db
def test_a_new_user_is_an_active_contributor_with_a_hashed_password() -> None:
    user = create_user(username="ann", password=PASSWORD, email="Ann@EXAMPLE.org")
    assert (user.role, user.is_maintainer, user.is_active, user.is_staff) == (
        "contributor",
        False,
        True,
        False,
    )
    assert user.email == "Ann@example.org"
    assert PASSWORD not in user.password
    assert user.check_password(PASSWORD)


@pytest.mark.django_db
@pytest.mark.parametrize("again", ["ann", "ANN", "Ann"])
def test_user_names_are_unique_whatever_their_case(again: str) -> None:
    create_user(username="ann", password=PASSWORD)
    with pytest.raises(UsernameTaken):
        create_user(username=again, password=PASSWORD)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change",
    [
        {"username": ""},
        {"username": "a b"},
        {"username": "a/b"},
        {"username": "x" * 151},
        {"password": "qz7"},
        {"password": "1234567890123"},
        {"password": "password123"},
        {"email": "nobody"},
        {"role": "king"},
    ],
)
def test_unusable_account_data_is_refused_without_repeating_the_password(change: dict[str, str]) -> None:
    with pytest.raises(BadAccountData) as refusal:
        create_user(**{"username": "ann", "password": PASSWORD, **change})
    assert change.get("password", PASSWORD) not in refusal.value.message
    assert not User.objects.exists()


@pytest.mark.django_db
def test_the_database_knows_only_the_roles_there_are() -> None:
    user = make_user()
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=user.pk).update(role="king")


@pytest.mark.django_db
def test_a_maintainer_appoints_and_dismisses() -> None:
    boss, ann = make_user("maintainer"), make_user()
    assert set_role(actor=boss, username=ann.username, role="maintainer").is_maintainer
    assert not set_role(actor=boss, username=ann.username, role="contributor").is_maintainer
    with pytest.raises(NotAllowed):
        set_role(actor=ann, username=ann.username, role="maintainer")
    with pytest.raises(NotFound):
        set_role(actor=boss, username="nobody", role="maintainer")
    with pytest.raises(BadAccountData):
        set_role(actor=boss, username=ann.username, role="king")


@pytest.mark.django_db
def test_the_last_maintainer_stays() -> None:
    boss = make_user("maintainer")
    with pytest.raises(LastMaintainer):
        set_role(actor=boss, username=boss.username, role="contributor")
    second = make_user("maintainer")
    set_role(actor=boss, username=boss.username, role="contributor")
    assert User.objects.get(pk=second.pk).is_maintainer


@pytest.mark.django_db
def test_a_superuser_is_a_maintainer() -> None:
    assert User(username="root", is_superuser=True).is_maintainer


@pytest.mark.django_db(transaction=True)
def test_two_maintainers_cannot_dismiss_each_other_at_once() -> None:
    for _ in range(5):
        pair = [make_user("maintainer"), make_user("maintainer")]
        User.objects.exclude(pk__in=[user.pk for user in pair]).update(is_active=False)
        barrier = threading.Barrier(2)

        def dismiss(actor: User, victim: User, barrier: threading.Barrier = barrier) -> Any:
            try:
                connection.ensure_connection()
                barrier.wait(30)
                return set_role(actor=actor, username=victim.username, role="contributor")
            except DomainError as refusal:
                return refusal
            finally:
                connection.close()

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(dismiss, pair, reversed(pair)))
        assert sum(isinstance(result, LastMaintainer) for result in results) == 1
        assert User.objects.filter(role="maintainer", is_active=True).count() == 1
