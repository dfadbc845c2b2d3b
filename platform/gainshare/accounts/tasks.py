"""The accounts app's periodic work on the control queue. It may run at any time, twice, or not at all for a while."""

from celery import shared_task
from django.utils import timezone

from gainshare.accounts.entrance_limits import forget_old_places
from gainshare.accounts.rate_limits import forget_full


@shared_task(name="gainshare.accounts.tasks.forget_attempts")
def forget_attempts() -> None:
    """Deletes what is no longer needed to limit sign-ups and sign-ins."""
    forget_full(now=timezone.now())
    forget_old_places()
