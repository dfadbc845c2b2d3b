"""The limits on signing up and on signing in with a password, wherever that happens: REST, pages, Django's admin.

By address: how many accounts are made, and how many passwords are tried. By account: how many wrong passwords are
tried from addresses that it has not signed in from lately; each address that it has signed in from has an allowance of
its own. So a stranger who uses up an account's allowance keeps its owner out neither where the owner usually is, nor
anywhere for longer than the tries go on. API keys and sessions are not touched.
"""

from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest
from django.utils import timezone

from gainshare.accounts.models import SignInPlace, User
from gainshare.accounts.rate_limits import Rate, give_back, network_of, take

SIGN_UPS = "sign-ups from this address"
SIGN_INS = "sign-ins from this address"
WRONG_PASSWORDS = "wrong passwords for this account"
PLACE_LIFE = timedelta(days=30)  # how long an account is known at an address
PLACE_NOTED_EVERY = timedelta(hours=1)


def allow_sign_up(request: HttpRequest) -> None:
    """To be called before an account is made for a visitor. Raises TooManyAttempts."""
    take(what=SIGN_UPS, who=network_of(request), rate=Rate(settings.SIGN_UPS_PER_HOUR))


class LimitedModelBackend(ModelBackend):
    """Django's users and passwords, within limits; what comes without a request is the platform's own and has none."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **credentials: Any,
    ) -> User | None:
        """As Django's. Raises TooManyAttempts, before the password is looked at."""
        if request is None or username is None or password is None:
            return super().authenticate(request, username, password, **credentials)
        network = network_of(request)
        take(what=SIGN_INS, who=network, rate=Rate(settings.SIGN_INS_PER_HOUR))
        account, rate = username.casefold(), Rate(settings.WRONG_PASSWORDS_PER_HOUR)
        who = f"{account} at {network}" if _is_known(username, network) else account
        take(what=WRONG_PASSWORDS, who=who, rate=rate)
        user = super().authenticate(request, username, password, **credentials)
        if user is not None:
            assert isinstance(user, User)
            give_back(what=WRONG_PASSWORDS, who=who, rate=rate)
            _note_place(user, network)
        return user

    async def aauthenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **credentials: Any,
    ) -> User | None:
        """By way of `authenticate`, which Django's own would go around."""
        return await sync_to_async(self.authenticate)(request, username, password, **credentials)


def forget_old_places() -> int:
    """Delete the addresses that accounts have not signed in from for long; how many."""
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
