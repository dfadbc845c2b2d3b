"""Rate limits in the database, shared by all web processes.

An allowance of `burst` tries refills evenly (the "generic cell rate algorithm" of ATM, ITU-T I.371, as a
leaky bucket: one row, one statement per try). A refused try takes nothing, so no one waits longer than until
the next try is due. Names and addresses are stored as keyed hashes only.
"""

import ipaddress
import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import salted_hmac

from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import Allowance

IPV6_NETWORK = 64  # bits: the smallest block that one customer of a provider has


@dataclass(frozen=True)
class Rate:
    """At most ``burst`` tries at once, and ``burst`` in each time of ``per`` in the long run."""

    burst: int
    per: timedelta = timedelta(hours=1)

    @property
    def interval(self) -> timedelta:
        return self.per / self.burst


class TooManyAttempts(DomainError):
    """The allowance is used up; ``headers`` say in how many seconds the next try is due."""

    code = "rate_limited"
    status = 429

    def __init__(self, what: str, retry_after_s: int) -> None:
        wait = f"{retry_after_s} s" if retry_after_s < 120 else f"{math.ceil(retry_after_s / 60)} minutes"
        super().__init__(f"Too many {what}. Try again in {wait}.")
        self.headers = {"Retry-After": str(retry_after_s)}

    def because(self, reason: str) -> "TooManyAttempts":
        """The same error, with the reason for this try in front."""
        self.message = f"{reason.rstrip('.')}. {self.message}"
        return self


def take(*, what: str, who: str, rate: Rate) -> None:
    """Use one try of ``who``. ``what`` names the kind of tries for the error message. Raises TooManyAttempts."""
    key, now, interval_s = _key(what, who), timezone.now(), rate.interval.total_seconds()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO accounts_allowance AS a (key, full_at) VALUES (%s, %s)"
            " ON CONFLICT (key) DO UPDATE SET full_at = GREATEST(a.full_at, %s) + make_interval(secs => %s)"
            " WHERE GREATEST(a.full_at, %s) + make_interval(secs => %s) <= %s",
            [key, now + rate.interval, now, interval_s, now, interval_s, now + rate.per],
        )
        if cursor.rowcount == 1:
            return
    full_at = Allowance.objects.filter(pk=key).values_list("full_at", flat=True).first() or now
    due_in = full_at + rate.interval - rate.per - now
    raise TooManyAttempts(what, max(1, math.ceil(due_in.total_seconds())))


def turn(*, what: str, who: str, rate: Rate) -> datetime | None:
    """Use one try of ``who``: None if it is due now, else the time of its turn behind all earlier ones."""
    now, interval_s = timezone.now(), rate.interval.total_seconds()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO accounts_allowance AS a (key, full_at) VALUES (%s, %s)"
            " ON CONFLICT (key) DO UPDATE SET full_at = GREATEST(a.full_at, %s) + make_interval(secs => %s)"
            " RETURNING full_at",
            [_key(what, who), now + rate.interval, now, interval_s],
        )
        (full_at,) = cursor.fetchone()
    due: datetime = full_at - rate.per
    return due if due > now else None


def give_back(*, what: str, who: str, rate: Rate) -> None:
    """Undo one `take`, for a try that turned out not to be limited."""
    Allowance.objects.filter(pk=_key(what, who)).update(full_at=F("full_at") - rate.interval)


def forget_full(*, now: datetime) -> int:
    """Delete allowances that are full at ``now``, because they hold no information; return their number."""
    return Allowance.objects.filter(full_at__lte=now).delete()[0]


def network_of(request: HttpRequest) -> str:
    """Network of the sender: an IPv4 address, or the first 64 bits of an IPv6 address.

    It is the peer's address. Behind a trusted proxy the server (uvicorn) replaces it by the client's. Headers
    are not read here, because any client can send them.
    """
    text = str(request.META.get("REMOTE_ADDR", ""))
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), IPV6_NETWORK), strict=False))
    return text


def _key(what: str, who: str) -> str:
    return salted_hmac(f"gainshare.accounts.rate_limits.{what}", who, algorithm="sha256").hexdigest()
