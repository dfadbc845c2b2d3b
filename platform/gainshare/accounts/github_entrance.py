"""Signing in and up with GitHub, by people who are not signed in. The limits of each address hold here too.

A linked number signs in as its user. Any other one chooses a user name once: a dormant user of that number wakes under
it, and where there is none a new user is made. Both count as a sign-up of the address. They skip the queue of new
accounts and take no place in it: GitHub says who it is, so many sign-ups with passwords delay no one here. An account
that is itself new at GitHub says little: it is queued as one with a password is.
"""

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from gainshare.accounts.entrance_limits import AccountWaits, allow_sign_up, take_turn
from gainshare.accounts.github_accounts import lock_number, seen_account
from gainshare.accounts.github_oauth import Person
from gainshare.accounts.models import GitHubAccount, User
from gainshare.accounts.services import NotAllowed, save_new_name

CLOSED = "Sign-up is closed on this site. Ask a maintainer for an account, log in to it, and link GitHub on its page."


def user_of(person: Person) -> User | None:
    """The user who signs in with this number; None if a name has to be chosen first. Raises NotAllowed, AccountWaits.

    Where sign-up is closed, only a user that is there already can wake.
    """
    account = seen_account(github_id=person.github_id, login=person.login)
    if account is None and not settings.OPEN_SIGNUP:
        raise NotAllowed(CLOSED)
    if account is None:
        return None
    require_usable(account.user)
    return None if account.is_dormant else account.user


def require_usable(user: User) -> None:
    """Raises NotAllowed for a user that was switched off, AccountWaits for one that was made to wait nevertheless."""
    if not user.is_active:
        raise NotAllowed("This account was switched off. Ask a maintainer why.")
    if user.is_waiting:
        raise AccountWaits(user)


def enter(*, request: HttpRequest, person: Person, username: str) -> User:
    """Wake or make the user of this number, under a name that is chosen once. It is active at once, or raises AccountWaits.

    If the number was linked meanwhile, the name is left and that user returned. Raises TooManyAttempts, NotAllowed,
    BadAccountData, UsernameTaken. What waits was made, and signs in later.
    """
    if (linked := user_of(person)) is not None:
        return linked
    allow_sign_up(request)
    with transaction.atomic():
        lock_number(person.github_id)
        account = seen_account(github_id=person.github_id, login=person.login)
        if account is not None and not account.is_dormant:
            return account.user
        user = account.user if account is not None else User()
        user.username = username
        user.set_unusable_password()  # nor does a password count that somebody set for a dormant one
        save_new_name(user)
        if account is None and _is_new_there(person):
            take_turn(user)
        GitHubAccount.objects.update_or_create(
            pk=person.github_id, defaults={"user": user, "login": person.login, "linked_at": timezone.now()}
        )
    require_usable(user)
    return user


def _is_new_there(person: Person) -> bool:
    """Whether anyone could have made the account for this sign-up. A dormant user's pull requests were judged already."""
    least = timedelta(days=settings.GITHUB_LEAST_DAYS)
    return person.joined_at is None or timezone.now() - person.joined_at < least
