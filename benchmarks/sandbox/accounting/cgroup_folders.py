"""Small acts on cgroup folders that both versions share."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.sandbox.levels import SandboxError

REMOVE_TIMEOUT_S = 5.0


def read_key(path: Path, key: str) -> int:
    """The value of `key` in a flat-keyed file; 0 where the kernel is too old to have file or key."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def remove_folder(folder: Path) -> None:
    """Removes an emptied cgroup. The kernel answers EBUSY for some milliseconds after its last process ended."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SandboxError(f"cgroup {folder} could not be removed: {error}") from error
            time.sleep(0.002)
        else:
            return
