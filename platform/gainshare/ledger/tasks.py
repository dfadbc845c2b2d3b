"""Periodic tasks of the ledger. All are idempotent."""

from celery import shared_task
from django.utils import timezone

from gainshare.ledger import services


@shared_task(name="gainshare.ledger.tasks.expire_holds")
def expire_holds() -> None:
    """Release expired holds, then move the rest of expired lots to breakage."""
    now = timezone.now()
    services.expire_holds(now=now)
    services.expire_lots(now=now)


@shared_task(name="gainshare.ledger.tasks.seal_entries")
def seal_entries() -> None:
    """Extend the hash chain over the waiting entries."""
    services.seal_entries()
