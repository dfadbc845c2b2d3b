"""The gateway's periodic work on the control queue."""

from celery import shared_task
from django.utils import timezone

from gainshare.gateway.services import settle_outstanding


@shared_task(name="gainshare.gateway.tasks.settle_outstanding")
def settle_outstanding_requests() -> int:
    """Settle what a killed web process or an absent database left unsettled."""
    return settle_outstanding(now=timezone.now())
