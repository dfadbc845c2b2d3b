"""Periodic tasks of the accounts app. They are idempotent."""

from celery import shared_task
from django.utils import timezone

from gainshare.accounts.entrance_limits import forget_old_places
from gainshare.accounts.rate_limits import forget_full


@shared_task(name="gainshare.accounts.tasks.forget_attempts")
def forget_attempts() -> None:
    """Delete rows that rate limits no longer need."""
    forget_full(now=timezone.now())
    forget_old_places()
