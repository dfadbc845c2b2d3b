"""The emergency stop: press it, lift it, and the guards that ask for it. What is stopped waits where it is.

Services call a guard as the first thing of their transaction, before they lock any row. A guard holds the switch,
shared with every other guard, until its transaction ends; pressing the switch waits for them and holds it alone. So
once a stop is on record, nothing that began before it is still to be committed.
"""

from django.db import connection, transaction
from django.utils import timezone

from bounty.errors import BadRequest, NotAllowed, Stopped
from bounty.models import Run, RunState, StopSwitch, Switch
from bounty.services.runs.lifecycle import recall_all
from bounty.services.transitions import note
from gainshare.accounts.models import User

# PostgreSQL's advisory locks with two numbers: this one is ours, the other one the switch's.
_SPACE = 0x6761
_KEYS = {Switch.JUDGING: 1, Switch.AWARDS: 2, Switch.MERGES: 3}


def is_stopped(switch: Switch) -> bool:
    """Whether the switch is pressed; inside a transaction the answer holds until that ends."""
    if connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", [_SPACE, _KEYS[switch]])
    return StopSwitch.objects.filter(name=switch, is_stopped=True).exists()


def require_running(switch: Switch) -> None:
    """Raises Stopped, with who stopped it and why, while the switch is pressed."""
    if not is_stopped(switch):
        return
    row = StopSwitch.objects.select_related("actor").get(name=switch)
    by = f" by {row.actor.username}" if row.actor is not None else ""
    raise Stopped(
        f"{row.get_name_display()} is stopped{by}: {row.reason} It goes on when the stop is lifted."
    )


def hold_alone(switch: Switch) -> None:
    """Wait for every transaction that asked, and keep new ones waiting until this transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_SPACE, _KEYS[switch]])


def switches() -> list[StopSwitch]:
    """All three as they stand, pressed or not."""
    known = {row.name: row for row in StopSwitch.objects.select_related("actor")}
    return [known.get(name) or StopSwitch(name=name) for name in Switch.values]


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
