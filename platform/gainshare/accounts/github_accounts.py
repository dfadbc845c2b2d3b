"""Accounts of GitHub and their users. Only GitHub's number finds an account; its name is kept as last seen.

A dormant user is made for somebody who has never signed in here. No one can sign in as it or make keys for it,
until the owner of the GitHub account signs in through GitHub: that wakes it.

An account is linked to a user in one of two ways, both through GitHub's own sign-in: a signed-in user links it, or someone who
is not signed in enters with it (`github_entrance`).
"""

from collections.abc import Callable
from itertools import count
from uuid import UUID, uuid5

from django.db import transaction
from django.utils import timezone

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.names import DORMANT_PREFIX, look_alike_key
from gainshare.accounts.once import claim
from gainshare.accounts.services import NAMES

NUMBERS = UUID("0b0a7c9e-52c7-4d0b-9a39-6f1c0a1f7f2e")  # lock namespace for numbers of GitHub
MAX_LOGIN_CHARS = 100

HandOver = Callable[[User, User], None]  # from a dormant user to the user that links its GitHub account
_hand_overs: dict[str, tuple[int, HandOver]] = {}


class GitHubAccountTaken(DomainError):
    """The GitHub account cannot be linked to this user."""

    code = "github_account_taken"
    status = 409


def register_hand_over(name: str, hand_over: HandOver, *, position: int) -> None:
    """Have ``hand_over(dormant, user)`` called in the transaction that links a dormant user's GitHub account to another
    user. It moves what can be moved, and raises GitHubAccountTaken where something has to stay. Lower positions first."""
    _hand_overs[name] = (position, hand_over)


def github_account(*, github_id: int, login: str) -> GitHubAccount:
    """The account with this number; a dormant user is made if there is none. Keeps ``login`` as last seen."""
    account = seen_account(github_id=github_id, login=login)
    if account is not None:
        return account
    with transaction.atomic():
        lock_number(github_id)
        account = seen_account(github_id=github_id, login=login)
        if account is not None:
            return account
        return GitHubAccount.objects.create(
            github_id=github_id, login=login[:MAX_LOGIN_CHARS], user=_dormant_user(github_id)
        )


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


def link(*, user: User, github_id: int, login: str) -> GitHubAccount:
    """Link the account with this number to a signed-in user, who has just proved at GitHub to own it.

    A number belongs to one user and a user has one number; neither is ever taken from a person who signed in. What a
    dormant user did is handed over as far as it can be. Repeating changes nothing. Raises GitHubAccountTaken.
    """
    with transaction.atomic():
        lock_number(github_id)
        User.objects.select_for_update(no_key=True).get(pk=user.pk)  # not two numbers at once
        own = GitHubAccount.objects.filter(user=user).exclude(pk=github_id).first()
        if own is not None:
            raise GitHubAccountTaken(
                f"Your account is linked to the GitHub account {own.login}, and an account has one. Log out, and sign in "
                "with GitHub, to use the other one."
            )
        account = seen_account(github_id=github_id, login=login)
        if account is None:
            account = GitHubAccount(github_id=github_id, login=login[:MAX_LOGIN_CHARS], user=user)
        elif account.user_id != user.pk:
            if not account.is_dormant:
                raise GitHubAccountTaken(
                    f"The GitHub account {account.login} is linked to another account here. Log out, and sign in with "
                    "GitHub, to use that one."
                )
            _hand_over(account, user)
        account.linked_at = account.linked_at or timezone.now()
        account.save()
    return account


def _hand_over(account: GitHubAccount, user: User) -> None:
    """Give the account and what its dormant user did to ``user``; the dormant user is switched off for good."""
    dormant = account.user
    for _, hand_over in sorted(_hand_overs.values(), key=lambda registered: registered[0]):
        hand_over(dormant, user)
    dormant.is_active = False
    dormant.save(update_fields=["is_active"])
    account.user = user


def _dormant_user(github_id: int) -> User:
    """A user without a password, named after the number: `github-12345`, or `github-12345.2` where that is taken."""
    user = User()
    user.set_unusable_password()
    for number in count(1):
        user.username = f"{DORMANT_PREFIX}{github_id}" + (f".{number}" if number > 1 else "")
        key = look_alike_key(user.username)
        claim(uuid5(NAMES, key))
        if not User.objects.filter(name_key=key).exists():
            break  # else a name from before the prefix was kept for dormant users
    user.save(force_insert=True)
    return user
