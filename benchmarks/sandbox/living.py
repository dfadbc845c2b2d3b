"""Knows the sandboxes that this process has not ended yet, so that it can end them all where it is ended itself.

What is frozen in a cgroup does not die with its judge: the kernel carries out a SIGKILL there only once it is thawed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol

from benchmarks.sandbox.accounting.placement import clear_own_groups
from benchmarks.sandbox.levels import SandboxError


class Killable(Protocol):
    """Interface of a sandbox that can be killed: see `Sample`."""

    def kill(self) -> int: ...


_living: set[Killable] = set()
os.register_at_fork(after_in_child=_living.clear)  # they are the parent's


def register(sandbox: Killable) -> None:
    _living.add(sandbox)


def unregister(sandbox: Killable) -> None:
    _living.discard(sandbox)


def end_all() -> None:
    """Kill every sandbox of this process, frozen ones too, and remove its cgroups. What cannot be ended is left."""
    for sandbox in tuple(_living):
        with suppress(SandboxError, OSError):
            sandbox.kill()
    clear_own_groups()
