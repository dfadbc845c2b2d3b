"""The ledger's periodic work. Every task may run at any time, twice, or not at all for a while."""

from celery import shared_task
from django.utils import timezone

from gainshare.ledger import services


@shared_task(name="gainshare.ledger.tasks.expire_holds")
def expire_holds() -> None:
    """Releases overdue holds, then moves what expired lots have left to breakage."""
    now = timezone.now()
    services.expire_holds(now=now)
    services.expire_lots(now=now)


@shared_task(name="gainshare.ledger.tasks.seal_entries")
def seal_entries() -> None:
    """Extends the hash chain over the entries that wait for it."""
    services.seal_entries()
