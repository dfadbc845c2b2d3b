"""The child's half of the conversation: one JSON document a line on standard input, one answer a line.

    {"command": "load", "arguments": {...}}  ->  {"answer": {...}} or {"error": "what went wrong"}

Whatever engines print goes to the log (standard error): answers have a separate file descriptor. The standard
library is all it needs, for it runs in peers' environments too.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

PR_SET_PDEATHSIG = 1

Command = Callable[..., dict[str, Any]]


def serve(commands: Mapping[str, Command]) -> None:
    """Answers until standard input ends. A command's exception is its answer; the next one is asked all the same.

    Every driver also knows `resident`, the memory of its process.
    """
    ctypes.CDLL(None).prctl(
        PR_SET_PDEATHSIG, signal.SIGKILL
    )  # a parent that is killed leaves no frozen child behind
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the engine prints goes to the log
    known = {"resident": lambda: {"resident_bytes": resident_bytes()}, **commands}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"answer": known[request["command"]](**request["arguments"])}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.flush()  # so that the log has what the engine printed before the answer
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def resident_bytes() -> int:
    """Memory of this process that is in use now, pages of mapped files included."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - nothing but builtins in peers
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
