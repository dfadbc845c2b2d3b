"""Accounts of GitHub and their users. Only GitHub's number finds an account; its name is kept as last seen.

A dormant user is made for somebody who has never signed in here. Nobody can sign in as it or make keys for it,
until the owner of the GitHub account signs in through GitHub and wakes it.
"""

from itertools import count
from uuid import UUID, uuid5

from django.db import transaction

from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.names import DORMANT_PREFIX, look_alike_key
from gainshare.accounts.once import claim
from gainshare.accounts.services import NAMES

NUMBERS = UUID("0b0a7c9e-52c7-4d0b-9a39-6f1c0a1f7f2e")  # lock namespace for numbers of GitHub
MAX_LOGIN_CHARS = 100


def github_account(*, github_id: int, login: str) -> GitHubAccount:
    """The account with this number; a dormant user is made if there is none. Keeps ``login`` as last seen."""
    login = login[:MAX_LOGIN_CHARS]
    account = seen_account(github_id=github_id, login=login)
    if account is not None:
        return account
    with transaction.atomic():
        lock_number(github_id)
        account = seen_account(github_id=github_id, login=login)
        if account is not None:
            return account
        return GitHubAccount.objects.create(github_id=github_id, login=login, user=_dormant_user(github_id))


def seen_account(*, github_id: int, login: str) -> GitHubAccount | None:
    """The account with this number, whose name is from now on ``login``; None if it was never seen."""
    account = GitHubAccount.objects.select_related("user").filter(pk=github_id).first()
    if account is not None and account.login != login[:MAX_LOGIN_CHARS]:
        account.login = login[:MAX_LOGIN_CHARS]
        GitHubAccount.objects.filter(pk=github_id).update(login=account.login)
    return account


def lock_number(github_id: int) -> None:
    """Make other transactions that make or link the account of this number wait until this one has ended."""
    claim(uuid5(NUMBERS, str(github_id)))


def _dormant_user(github_id: int) -> User:
    """A user without a password, named after the number: `github-12345`, or `github-12345.2` where that is taken."""
    for number in count(1):
        name = f"{DORMANT_PREFIX}{github_id}" + (f".{number}" if number > 1 else "")
        key = look_alike_key(name)
        claim(uuid5(NAMES, key))
        if User.objects.filter(name_key=key).exists():  # only a name from before the prefix was kept
            continue
        user = User(username=name)
        user.set_unusable_password()
        user.save(force_insert=True)
        return user
    raise AssertionError("count() never ends")
