"""The emergency stop: stop and lift a switch, and the guards that check it. Stopped work waits in its state.

Services call a guard first in their transaction, before they lock any row. A guard holds a shared lock on the
switch until its transaction ends; changing the switch takes an exclusive lock. So when a stop is recorded, no
transaction that began before it is still open.
"""

from django.db import connection, transaction
from django.utils import timezone

from bounty.errors import BadRequest, Stopped
from bounty.models import Run, RunState, StopSwitch, Switch
from bounty.services.permissions import require_maintainer
from bounty.services.runs.lifecycle import recall_all
from bounty.services.transitions import note
from gainshare.accounts.models import User

# First key of PostgreSQL's two-key advisory locks; the second one is the switch.
_SPACE = 0x6761
_KEYS = {Switch.JUDGING: 1, Switch.AWARDS: 2, Switch.MERGES: 3}


def is_stopped(switch: Switch) -> bool:
    """Whether the switch is stopped; inside a transaction the answer is valid until that ends."""
    if connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", [_SPACE, _KEYS[switch]])
    return StopSwitch.objects.filter(name=switch, is_stopped=True).exists()


def require_running(switch: Switch) -> None:
    """Raises Stopped, with who stopped it and why, while the switch is stopped."""
    if not is_stopped(switch):
        return
    row = StopSwitch.objects.select_related("actor").get(name=switch)
    by = f" by {row.actor.username}" if row.actor is not None else ""
    raise Stopped(
        f"{row.get_name_display()} is stopped{by}: {row.reason.rstrip('.')}. It continues when a maintainer lifts the stop."
    )


def lock_exclusively(switch: Switch) -> None:
    """Lock the switch exclusively: wait for every transaction that holds it, and block new ones until this
    one ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_SPACE, _KEYS[switch]])


def switches() -> list[StopSwitch]:
    """All three switches with their present state."""
    known = {row.name: row for row in StopSwitch.objects.select_related("actor")}
    return [known.get(name) or StopSwitch(name=name) for name in Switch.values]


def stop(*, actor: User, switch: str, reason: str) -> StopSwitch:
    """Stop a switch. If it is stopped already, nothing changes and the first reason stays.

    Stopping judging also returns every run to the queue; that does not count as an attempt.
    """
    if not reason.strip():
        raise BadRequest("Give a reason for the stop; it is shown on every page.")
    row = _press(actor, switch, is_stopped=True, reason=reason.strip())
    if switch == Switch.JUDGING:
        recall_all(reason=f"judging was stopped: {row.reason}")
    return row


def lift(*, actor: User, switch: str, reason: str = "") -> StopSwitch:
    """Lift a stop. Beat finds what waited, within its interval."""
    row = _press(actor, switch, is_stopped=False, reason=reason.strip() or "lifted")
    if switch == Switch.JUDGING:
        # The wake-ups of queued runs were sent while nothing was leased, so they are due again now.
        Run.objects.filter(state=RunState.QUEUED).update(woken_at=None)
    return row


def _press(actor: User, switch: str, *, is_stopped: bool, reason: str) -> StopSwitch:
    require_maintainer(actor, "change the emergency stop")
    if switch not in Switch.values:
        raise BadRequest(f"The switch must be one of {', '.join(Switch.values)}.")
    with transaction.atomic():
        lock_exclusively(Switch(switch))
        row, _ = StopSwitch.objects.get_or_create(name=switch)
        if row.is_stopped == is_stopped:
            return row
        row.is_stopped, row.reason, row.actor, row.changed_at = is_stopped, reason, actor, timezone.now()
        row.save()
        old, new = ("running", "stopped") if is_stopped else ("stopped", "running")
        note(row, old=old, new=new, reason=reason, actor=actor)
    return row
