"""The limit on diffs that are read in vain: per person and hour, taken before a diff is parsed.

A diff that is queued gives its try back, so the limit is one on rejected diffs, and on those that were measured
before. A process that dies in between costs one try, which returns with time.
"""

from django.conf import settings

from gainshare.accounts.models import User
from gainshare.accounts.rate_limits import Rate, TooManyAttempts, give_back, take

WHAT = "rejected diffs in an hour"


def spend_try(person: User) -> None:
    """Take one of the person's tries. Raises TooManyAttempts (429) with the time when the next one is due."""
    try:
        take(what=WHAT, who=str(person.pk), rate=_rate())
    except TooManyAttempts as limited:
        raise limited.because("This diff was not read and not stored") from None


def return_try(person: User) -> None:
    """Give back a try that `spend_try` took: the diff was queued."""
    give_back(what=WHAT, who=str(person.pk), rate=_rate())


def spend_again(person: User) -> None:
    """Take a try once more, after a transaction that took one was rolled back."""
    try:
        take(what=WHAT, who=str(person.pk), rate=_rate())
    except TooManyAttempts:
        return  # another request took the last one meanwhile


def _rate() -> Rate:
    return Rate(settings.REJECTIONS_PER_HOUR)
