"""Celery tasks of the pool. Each is repeatable; beat calls them again after a loss."""

from celery import shared_task
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.capacity.deployments import canaries, handover, watch
from gainshare.capacity.hosts.leaving import drain_leaving
from gainshare.capacity.hosts.registration import forget_starts
from gainshare.capacity.hosts.silence import lose_hosts
from gainshare.capacity.pool import loans
from gainshare.capacity.routing import exchange, rates, seats
from gainshare.capacity.scaling import loop, records


@shared_task(name="gainshare.capacity.tasks.tend_hosts")
def tend_hosts() -> None:
    """End the nodes of lost hosts, drain those of hosts that leave, forget old starts of agents."""
    now = timezone.now()
    lose_hosts(now)
    fault_point("capacity.tend.after_losses")
    drain_leaving(now)
    forget_starts(now)


@shared_task(name="gainshare.capacity.tasks.scale")
def scale() -> int:
    """One pass of the control loop over all served models."""
    return loop.scale_all(timezone.now())


@shared_task(name="gainshare.capacity.tasks.settle_engines")
def settle_engines() -> int:
    """Compare what engines outside run with what they should run."""
    return loop.settle_all(timezone.now())


@shared_task(name="gainshare.capacity.tasks.forget_decisions")
def forget_decisions() -> int:
    """Delete old decisions that changed nothing."""
    return records.forget_repeats(timezone.now())


@shared_task(name="gainshare.capacity.tasks.free_seats")
def free_seats() -> int:
    """Free seats whose web process is gone, also where no other one is left, and drop old figures."""
    now = timezone.now()
    exchange.forget_old(now=now)
    rates.forget_old(now=now)
    return seats.free_forgotten(now=now)


@shared_task(name="gainshare.capacity.tasks.keep_loans")
def keep_loans() -> None:
    """Offer idle devices to judging, and take back what is overdue."""
    loans.keep_loans(timezone.now())


@shared_task(name="gainshare.capacity.tasks.advance_deployments")
def advance_deployments() -> None:
    """Begin lost canaries again, hand models over to new trees, and roll back what fails or is slow."""
    now = timezone.now()
    canaries.tend(now)
    fault_point("capacity.deployments.after_canaries")
    watch.watch_all(now)
    fault_point("capacity.deployments.after_watch")
    handover.advance_all(now)
