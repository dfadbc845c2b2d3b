"""Begin and end of a runner's quarantine. Runs are not moved here.

A draining or drained runner keeps that state, and is quarantined when it is resumed.
"""

from django.db import transaction
from django.utils import timezone

from bounty.models import QuarantineCause, Runner, RunnerState
from bounty.services.transitions import move, note
from gainshare.accounts.models import User


def quarantine(*, runner: Runner, cause: QuarantineCause, reason: str, actor: User | None = None) -> bool:
    """Quarantine a runner. False if it was already quarantined or retired."""
    with transaction.atomic():
        fresh = Runner.objects.select_for_update(no_key=True).get(pk=runner.pk)
        if fresh.state == RunnerState.RETIRED or fresh.quarantine_cause != QuarantineCause.NONE:
            _reread(runner, fresh)
            return False
        now = timezone.now()
        if fresh.state == RunnerState.ACTIVE:
            move(
                fresh,
                to=RunnerState.QUARANTINED,
                reason=reason,
                actor=actor,
                quarantine_cause=cause,
                quarantined_at=now,
            )
        else:
            Runner.objects.filter(pk=fresh.pk).update(quarantine_cause=cause, quarantined_at=now)
            note(fresh, old=fresh.state, new=fresh.state, reason=f"quarantined: {reason}", actor=actor)
            fresh.quarantine_cause, fresh.quarantined_at = cause, now
        _reread(runner, fresh)
    return True


def end_quarantine(*, runner: Runner, reason: str, actor: User | None = None) -> bool:
    """End a runner's quarantine. False if it was not quarantined."""
    with transaction.atomic():
        fresh = Runner.objects.select_for_update(no_key=True).get(pk=runner.pk)
        if fresh.quarantine_cause == QuarantineCause.NONE:
            _reread(runner, fresh)
            return False
        # `quarantined_at` is kept, because it separates the runs in doubt from later ones.
        if fresh.state == RunnerState.QUARANTINED:
            move(
                fresh,
                to=RunnerState.ACTIVE,
                reason=reason,
                actor=actor,
                quarantine_cause=QuarantineCause.NONE,
            )
        else:
            Runner.objects.filter(pk=fresh.pk).update(quarantine_cause=QuarantineCause.NONE)
            note(fresh, old=fresh.state, new=fresh.state, reason=f"released: {reason}", actor=actor)
            fresh.quarantine_cause = QuarantineCause.NONE
        _reread(runner, fresh)
    return True


def _reread(runner: Runner, fresh: Runner) -> None:
    runner.state, runner.quarantine_cause = fresh.state, fresh.quarantine_cause
    runner.quarantined_at = fresh.quarantined_at
