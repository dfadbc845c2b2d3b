"""Base of every attack program: register attacks, try each, report one JSON line per attack.

Runs inside a sandbox, where nothing of ours can be imported but the files in the same folder. An attack returns a text that
says what it got hold of, or None; being refused is an OSError. Anything else it raises is a fault of the attack,
and is reported as not contained: an attack that did not run proves nothing.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Targets = dict[str, Any]
AttackFunction = Callable[[Targets], str | None]

_attacks: list[AttackFunction] = []
_libc = ctypes.CDLL(None, use_errno=True)


class Refused(OSError):
    """The sandbox said no in another way than by an error number."""


def attack(function: AttackFunction) -> AttackFunction:
    """Registers a function under its own name."""
    _attacks.append(function)
    return function


def call(targets: Targets, name: str, *arguments: Any) -> int:
    """The system call `name`; its number comes from the host. Raises OSError as the kernel answers."""
    number = targets["syscalls"].get(name)
    if number is None:
        raise Refused(errno.ENOSYS, "this machine has no such call")
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def in_child(function: Callable[[], str | None]) -> str | None:
    """The answer of `function` from a forked child, for what may end the process that tries it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            answer = {"got": function()}
        except OSError as error:
            answer = {"refused": str(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise Refused(errno.EPERM, f"killed by {signal.Signals(os.WTERMSIG(status)).name}")
    answer = json.loads(text)
    if "refused" in answer:
        raise Refused(errno.EPERM, answer["refused"])
    got: str | None = answer["got"]
    return got


def first_that_works(attempts: Mapping[str, Callable[[], object]]) -> str | None:
    """Tries all; names the ones that were not refused. None when all were."""
    worked = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        worked.append(name)
    return ", ".join(worked) or None


def _report(name: str, *, escaped: bool, detail: str) -> None:
    sys.stdout.write(json.dumps({"attack": name, "escaped": escaped, "detail": detail}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Announces the names, then tries each. stdin is the JSON of what there is to attack: argv shows in /proc."""
    targets: Targets = json.load(sys.stdin)
    sys.stdout.write(json.dumps({"plan": [function.__name__ for function in _attacks]}) + "\n")
    sys.stdout.flush()
    for function in _attacks:
        name = function.__name__
        try:
            got = function(targets)
        except OSError as error:
            _report(name, escaped=False, detail=error.strerror or str(error))
        except Exception as error:
            _report(name, escaped=True, detail=f"the attack itself failed: {type(error).__name__}: {error}")
        else:
            _report(name, escaped=got is not None, detail=got or "nothing found")
