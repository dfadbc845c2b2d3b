"""Rate limits on sign-up and on sign-in, for REST, pages and Django's admin together.

Above a rate of sign-ups over all addresses, new accounts with passwords are made but wait their turn: `sign_up` says
until when. Those that enter with GitHub do not wait unless they are new there, too (`github_entrance`).

By address: accounts made, and sign-ins tried, by password or with GitHub. By account: wrong passwords from addresses that it has not
signed in from recently. Each address that it has signed in from has its own allowance. So a stranger who uses
up an account's allowance does not lock out its owner at a known address, nor elsewhere for longer than the
attempts last. API keys and sessions are not limited.
"""

from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import SignInPlace, User
from gainshare.accounts.rate_limits import Rate, give_back, network_of, take, turn
from gainshare.accounts.services import create_user

SIGN_UPS = "sign-ups from this address"
ALL_SIGN_UPS, ANYWHERE = "sign-ups over all", "all addresses"
SIGN_INS = "sign-ins from this address"
STARTS = "sign-ins with GitHub from this address"
WRONG_PASSWORDS = "wrong passwords for this account"
PLACE_LIFE = timedelta(days=30)  # how long an address is known for an account
PLACE_NOTED_EVERY = timedelta(hours=1)


def allow_sign_up(request: HttpRequest) -> None:
    """Use one sign-up of the visitor's address. Raises TooManyAttempts."""
    take(what=SIGN_UPS, who=network_of(request), rate=Rate(settings.SIGN_UPS_PER_HOUR))


def sign_up(*, request: HttpRequest, username: str, password: str, email: str = "") -> User:
    """Make an account for a visitor. Above the rate over all addresses it waits its turn (`User.active_from`).

    Raises TooManyAttempts for the visitor's address, and what `create_user` raises.
    """
    allow_sign_up(request)
    with transaction.atomic():
        user = create_user(username=username, password=password, email=email)
        take_turn(user)
    return user


def take_turn(user: User) -> None:
    """Have a new account wait its turn, if there are more than the rate over all addresses allows."""
    due = turn(what=ALL_SIGN_UPS, who=ANYWHERE, rate=Rate(settings.ALL_SIGN_UPS_PER_HOUR))
    if due is not None:
        user.active_from = due
        user.save(update_fields=["active_from"])


def allow_start(request: HttpRequest) -> None:
    """Use one start of a sign-in with GitHub of the visitor's address: each keeps a session. Raises TooManyAttempts."""
    take(what=STARTS, who=network_of(request), rate=Rate(settings.SIGN_INS_PER_HOUR))


def allow_sign_in(request: HttpRequest) -> None:
    """Use one sign-in of the visitor's address, before anything is checked. Raises TooManyAttempts."""
    take(what=SIGN_INS, who=network_of(request), rate=Rate(settings.SIGN_INS_PER_HOUR))


def place_in_line(user: User) -> int:
    """How many accounts become active before this one."""
    return User.objects.filter(active_from__gt=timezone.now(), active_from__lt=user.active_from).count()


class AccountWaits(DomainError):
    """Password or GitHub account are right, but the account waits its turn after sign-up."""

    code = "account_waits"
    status = 403

    def __init__(self, user: User) -> None:
        assert user.active_from is not None
        ahead = place_in_line(user)
        super().__init__(
            f"This account waits its turn, because many people signed up at once; {ahead} are before it. It becomes "
            f"active at {user.active_from:%Y-%m-%d %H:%M} UTC. Sign in then, as you did now."
        )


class LimitedModelBackend(ModelBackend):
    """Django's password backend with limits; calls without a request are the platform's own and not limited."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **credentials: Any,
    ) -> User | None:
        """As Django's. Raises TooManyAttempts before the password is checked, AccountWaits after it."""
        if request is None or username is None or password is None:
            user = super().authenticate(request, username, password, **credentials)
            return None if isinstance(user, User) and user.is_dormant else user
        network = network_of(request)
        allow_sign_in(request)
        account, rate = username.casefold(), Rate(settings.WRONG_PASSWORDS_PER_HOUR)
        who = f"{account} at {network}" if _is_known(username, network) else account
        take(what=WRONG_PASSWORDS, who=who, rate=rate)
        user = super().authenticate(request, username, password, **credentials)
        if user is not None:
            assert isinstance(user, User)
            if user.is_dormant:  # its owner signs in through GitHub, whatever password was set for it
                return None
            give_back(what=WRONG_PASSWORDS, who=who, rate=rate)
            _note_place(user, network)
            if user.is_waiting:
                raise AccountWaits(user)
        return user

    async def aauthenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **credentials: Any,
    ) -> User | None:
        """Call `authenticate`, which Django's own method would bypass."""
        return await sync_to_async(self.authenticate)(request, username, password, **credentials)


def forget_old_places() -> int:
    """Delete addresses that accounts have not signed in from for long; return their number."""
    return SignInPlace.objects.filter(last_at__lte=timezone.now() - PLACE_LIFE).delete()[0]


def _is_known(username: str, network: str) -> bool:
    return SignInPlace.objects.filter(
        user__username=username,
        place=SignInPlace.hashed(network),
        last_at__gt=timezone.now() - PLACE_LIFE,
    ).exists()


def _note_place(user: User, network: str) -> None:
    now = timezone.now()
    SignInPlace.objects.get_or_create(user=user, place=SignInPlace.hashed(network), defaults={"last_at": now})
    SignInPlace.objects.filter(
        user=user, place=SignInPlace.hashed(network), last_at__lte=now - PLACE_NOTED_EVERY
    ).update(last_at=now)
