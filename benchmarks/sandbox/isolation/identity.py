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

# Above every range that distributions, systemd and container managers hand out (systemd's docs/UIDS-GIDS.md),
# and wide enough for the process id of each judge: no two judges, and no two slots of one, share a uid.
WIDE_BASE = 1_900_000_000
# Where only 65,536 uids are mapped (inside a container).
NARROW_BASE = 64_000
PID_LIMIT = 2**22


def sandbox_uid(slot: int, *, uid_map: str | None = None, pid: int | None = None) -> int:
    """The unassigned uid of `slot` (0 to 15) of this process, when sandboxes are started as root."""
    if not 0 <= slot < SLOTS:
        raise ValueError(f"a slot is 0 to {SLOTS - 1}, not {slot}")
    wide = WIDE_BASE + (os.getpid() if pid is None else pid) % PID_LIMIT * SLOTS + slot
    if _is_mapped(wide, Path("/proc/self/uid_map").read_text() if uid_map is None else uid_map):
        return wide
    narrow = NARROW_BASE + slot
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
