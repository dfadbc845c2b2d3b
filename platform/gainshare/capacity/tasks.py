"""Celery tasks of the pool. Each is repeatable; beat calls them again after a loss."""

from celery import shared_task
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.capacity.hosts.leaving import drain_leaving
from gainshare.capacity.hosts.registration import forget_starts
from gainshare.capacity.hosts.silence import lose_hosts


@shared_task(name="gainshare.capacity.tasks.tend_hosts")
def tend_hosts() -> None:
    """End the nodes of lost hosts, drain those of hosts that leave, forget old starts of agents."""
    now = timezone.now()
    lose_hosts(now)
    fault_point("capacity.tend.after_losses")
    drain_leaving(now)
    forget_starts(now)
