"""Finds out which sandbox this machine can give. Fails closed: the weakest level is never chosen silently."""

from __future__ import annotations

import os
import subprocess
from functools import cache

from benchmarks.sandbox.isolation.inner import REFUSED
from benchmarks.sandbox.levels import Limits, SandboxError, SandboxLevel, SandboxUnavailable
from benchmarks.sandbox.runtime import python_runtime
from benchmarks.sandbox.starting import spawn

LEVEL_VARIABLE = "GAINSHARE_SANDBOX_LEVEL"
REAL_LEVELS = (SandboxLevel.BUBBLEWRAP, SandboxLevel.BUBBLEWRAP_USER, SandboxLevel.CONTAINER)
PROBE_TIMEOUT_S = 20.0
ANSWER = b"confined"

ADVICE_USER = (
    "Allow user namespaces (sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000; on Ubuntu "
    "also kernel.apparmor_restrict_unprivileged_userns=0), or start the runner as root."
)
ADVICE_ROOT = (
    "Root here lacks the right to make namespaces: start the runner directly on a machine or in a virtual machine, "
    "or give its container CAP_SYS_ADMIN and an unmasked /proc."
)
ADVICE_NONE = (
    " For development only, level `none` runs submitted code unconfined when it is asked for explicitly; it never "
    "earns awards."
)


def level_of_this_user() -> SandboxLevel:
    """The level that fits who we are, whether or not it works here."""
    return SandboxLevel.BUBBLEWRAP if os.geteuid() == 0 else SandboxLevel.BUBBLEWRAP_USER


def probe(level: SandboxLevel) -> None:
    """Starts Python in a sandbox of `level` and hears back from it.

    Raises:
        SandboxUnavailable: it does not work here; the message names the cause and what to do.
    """
    if level is SandboxLevel.NONE:
        return
    if level not in (level_of_this_user(), SandboxLevel.CONTAINER):
        who = "root" if level is SandboxLevel.BUBBLEWRAP else "an ordinary user"
        raise SandboxUnavailable(f"Level `{level}` needs the runner to be started by {who}.")
    python = python_runtime()
    argv = [*python.argv, "-c", f"import sys; sys.stdout.write({ANSWER.decode()!r})"]
    try:
        with spawn(
            argv, level=level, mounts=(), limits=Limits(wall_s=PROBE_TIMEOUT_S), env=python.env, slot=0
        ) as sample:
            sample.stdin.close()
            answer = sample.stdout.read(len(ANSWER)) or b""
            returncode = sample.wait(PROBE_TIMEOUT_S)
    except SandboxUnavailable:
        raise
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailable(
            f"Level `{level}` did not answer within {error.timeout:.0f} s.{ADVICE_NONE}"
        ) from error
    except (SandboxError, OSError) as error:
        raise SandboxUnavailable(f"A sandbox could not be started: {error}.{ADVICE_NONE}") from error
    if answer != ANSWER or returncode != 0:
        cause = sample.log().decode(errors="replace").strip() or f"it exited with status {returncode}"
        advice = ADVICE_ROOT if os.geteuid() == 0 else ADVICE_USER
        if returncode == REFUSED:
            advice = "The sandbox did not confine processes on this kernel, so nothing was run in it."
        raise SandboxUnavailable(f"Level `{level}` does not work here: {cause}. {advice}{ADVICE_NONE}")


@cache
def _probed(level: SandboxLevel) -> str | None:
    try:
        probe(level)
    except SandboxUnavailable as error:
        return str(error)
    return None


def best_level(*, allow_none: bool = False) -> SandboxLevel:
    """The level to use on this machine, probed once per process: bubblewrap, else a container.

    GAINSHARE_SANDBOX_LEVEL asks for one of them; nothing else is then taken in its place.

    Raises:
        SandboxUnavailable: there is no real sandbox, and `allow_none` does not permit to do without.
    """
    if asked := os.environ.get(LEVEL_VARIABLE):
        return _asked_level(asked)
    problems = []
    for level in (level_of_this_user(), SandboxLevel.CONTAINER):
        problem = _probed(level)
        if problem is None:
            return level
        problems.append(problem)
    if allow_none:
        return SandboxLevel.NONE
    raise SandboxUnavailable(problems[0])


def _asked_level(asked: str) -> SandboxLevel:
    if asked not in (level.value for level in REAL_LEVELS):
        raise SandboxUnavailable(
            f"{LEVEL_VARIABLE} is {asked!r}; it names one of {', '.join(REAL_LEVELS)}, or is not set."
        )
    level = SandboxLevel(asked)
    if problem := _probed(level):
        raise SandboxUnavailable(problem)
    return level


def levels_here() -> dict[SandboxLevel, str | None]:
    """Check every level that confines: None where it works on this machine for this user, else the reason and what to do."""
    return {level: _probed(level) for level in REAL_LEVELS}
