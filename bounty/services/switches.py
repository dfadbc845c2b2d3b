"""The emergency stop's guards. Services call them as the first thing of their transaction, before they lock any row.

A guard holds the switch, shared with every other guard, until its transaction ends; pressing the switch waits for
them and holds it alone. So once a stop is on record, nothing that began before it is still to be committed. Pressing
is in `emergency`.
"""

from django.db import connection

from bounty.errors import Stopped
from bounty.models import StopSwitch, Switch

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
