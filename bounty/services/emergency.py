"""Pressing and lifting the emergency stop. What is stopped waits where it is; lifting needs no one's help."""

from django.db import transaction
from django.utils import timezone

from bounty.errors import BadRequest, NotAllowed
from bounty.models import Run, RunState, StopSwitch, Switch
from bounty.services.recalls import recall_all
from bounty.services.switches import hold_alone
from bounty.services.transitions import note
from gainshare.accounts.models import User


def stop(*, actor: User, switch: str, reason: str) -> StopSwitch:
    """Press the switch. Stopping what is stopped changes nothing: the first reason stays.

    Stopped judging also takes every run from its runner, back into the queue; that does not count as an attempt.
    """
    if not reason.strip():
        raise BadRequest("Say why it is stopped; everybody reads it on every page.")
    row = _press(actor, switch, is_stopped=True, reason=reason.strip())
    if switch == Switch.JUDGING:
        recall_all(reason=f"judging was stopped: {row.reason}")
    return row


def lift(*, actor: User, switch: str, reason: str = "") -> StopSwitch:
    """Lift the switch. Beat finds what waited, within its interval."""
    row = _press(actor, switch, is_stopped=False, reason=reason.strip() or "lifted")
    if switch == Switch.JUDGING:
        # Their wake-ups were sent to runners that got nothing: due again now.
        Run.objects.filter(state=RunState.QUEUED).update(woken_at=None)
    return row


def _press(actor: User, switch: str, *, is_stopped: bool, reason: str) -> StopSwitch:
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer works the emergency stop.")
    if switch not in Switch.values:
        raise BadRequest(f"The switch is one of {', '.join(Switch.values)}.")
    with transaction.atomic():
        hold_alone(Switch(switch))
        row, _ = StopSwitch.objects.get_or_create(name=switch)
        if row.is_stopped == is_stopped:
            return row
        row.is_stopped, row.reason, row.actor, row.changed_at = is_stopped, reason, actor, timezone.now()
        row.save()
        old, new = ("running", "stopped") if is_stopped else ("stopped", "running")
        note(row, old=old, new=new, reason=reason, actor=actor)
    return row
