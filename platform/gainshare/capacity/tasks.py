"""Celery tasks of the pool. Each is repeatable; beat calls them again after a loss."""

from celery import shared_task
from django.utils import timezone

from gainshare.capacity.pool import loans


@shared_task(name="gainshare.capacity.tasks.keep_loans")
def keep_loans() -> None:
    """Offer idle devices to judging, and take back what is overdue."""
    loans.keep_loans(timezone.now())
