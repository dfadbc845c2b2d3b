"""The levels that tests of the sandbox run at, skipping loudly where this machine lacks one."""

import os

import pytest

from benchmarks.sandbox import SandboxLevel, SandboxUnavailable, best_level, probe

#: What this machine and user have by themselves, and a container.
LEVELS = ("best", "container")


def level_or_skip(name: str) -> SandboxLevel:
    """Only root can install a container runtime, so only then its absence is a fault of the machine's set-up."""
    try:
        if name == "best":
            return best_level()
        probe(SandboxLevel.CONTAINER)
    except SandboxUnavailable as error:
        word = "expected: " if name == "container" and os.geteuid() != 0 else ""
        pytest.skip(f"{word}no sandbox `{name}` on this machine: {error}")
    return SandboxLevel.CONTAINER
