"""The uid that submitted code runs under."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

from benchmarks.sandbox.levels import SandboxUnavailable

#: Seen inside a sandbox that an ordinary user started. Outside it is that user, in a separate namespace.
USER_UID = 65534
SLOTS = 16
#: Slots of process 0, which is never a judge: sandboxes that keep files need the same uid at each start.
KEPT_SLOTS = 64

# Above every range that distributions, systemd and container managers hand out (systemd's docs/UIDS-GIDS.md),
# and wide enough for the process id of each judge: no two judges, and no two slots of one, share a uid.
WIDE_BASE = 1_900_000_000
# Where only 65,536 uids are mapped (inside a container).
NARROW_BASE = 64_000
PID_LIMIT = 2**22


def sandbox_uid(slot: int, *, uid_map: str | None = None, pid: int | None = None) -> int:
    """The unassigned uid of `slot` (0 to 15; of process 0: to 63) of this process, when sandboxes are started as root.

    Uids of process 0 are no other process's: its slots from 16 on come after those of the highest process id.
    """
    owner = os.getpid() if pid is None else pid
    slots = SLOTS if owner else KEPT_SLOTS
    if not 0 <= slot < slots:
        raise ValueError(f"a slot is 0 to {slots - 1}, not {slot}")
    block = owner % PID_LIMIT if slot < SLOTS else PID_LIMIT
    wide = WIDE_BASE + block * SLOTS + slot
    if _is_mapped(wide, Path("/proc/self/uid_map").read_text() if uid_map is None else uid_map):
        return wide
    narrow = NARROW_BASE + (slot if owner else SLOTS + slot)
    with suppress(KeyError):
        taken = pwd.getpwuid(narrow).pw_name
        raise SandboxUnavailable(
            f"uid {narrow}, which a sandbox would use, belongs to {taken!r}: remove that user."
        )
    return narrow


def _is_mapped(uid: int, uid_map: str) -> bool:
    for line in uid_map.splitlines():
        first, _, count = (int(field) for field in line.split())
        if first <= uid < first + count:
            return True
    return False
