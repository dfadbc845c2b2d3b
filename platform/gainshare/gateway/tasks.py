"""Periodic tasks of the gateway on the control queue."""

from celery import shared_task
from django.utils import timezone

from gainshare.gateway.services import settle_outstanding


@shared_task(name="gainshare.gateway.tasks.settle_outstanding")
def settle_outstanding_requests() -> int:
    """Settle requests that a killed web process or an unavailable database left unsettled."""
    return settle_outstanding(now=timezone.now())
