"""The program inside a trial's sandbox: `bug_inside.py STEP`, with the reproduction on stdin as JSON.

Steps: `read` (is it a reproduction at all? without a tree), `observe` (with a tree; what `observe()` returns goes to
stdout as JSON), `check` (without a tree; `check(seen)` of what was observed). How it ends says what happened: 0, or one
of the statuses below, with the reason on stderr. In `observe` it shares its process with the tree, so nothing that it
says there is believed before it was checked elsewhere.
"""

from __future__ import annotations

import json
import linecache
import os
import sys
import traceback
from types import ModuleType
from typing import Any

TREE = "/tree"
NAME = "reproduction"
FILE = f"{NAME}.py"
REFUSED = 10  # check raised AssertionError
RAISED = 11  # observe raised
BROKEN = 12  # the reproduction itself: it does not load, or check raised something else
MALFORMED = 13  # what observe returned is no plain JSON data
MAX_REASON_CHARACTERS = 2_000


class Ends(Exception):
    """Ends the program with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def load(source: str) -> ModuleType:
    """The reproduction as a module, with `observe` and `check`. Raises Ends."""
    module = ModuleType(NAME)
    module.__file__ = FILE
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)  # for tracebacks
    sys.modules[NAME] = module
    try:
        exec(compile(source, FILE, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - that is its purpose
    except BaseException as error:  # SystemExit, too: how this program ends is not for the file to say
        raise Ends(BROKEN, f"{FILE} does not load without a tree: {said(error)}") from error
    for name in ("observe", "check"):
        if not callable(getattr(module, name, None)):
            raise Ends(BROKEN, f"{FILE} has no function {name}")
    return module


def said(error: BaseException) -> str:
    """An exception in one line."""
    return "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")[:MAX_REASON_CHARACTERS]


def observe(module: ModuleType) -> bytes:
    """Run the reproduction's `observe` on the tree; its answer as JSON. Raises Ends."""
    sys.path.insert(0, TREE)
    try:
        seen = module.observe()
    except BaseException as error:
        raise Ends(RAISED, f"observe raised {said(error)}") from error
    try:
        if not isinstance(seen, dict):
            raise TypeError(f"observe returned {type(seen).__name__}, not a dict")
        return json.dumps(seen, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Ends(MALFORMED, f"not plain JSON data: {said(error)}") from error


def check(module: ModuleType, seen: dict[str, Any]) -> None:
    """Raises Ends unless what was seen shows no bug."""
    try:
        module.check(seen)
    except AssertionError as error:
        raise Ends(REFUSED, f"check refused what was seen: {said(error)}") from error
    except BaseException as error:
        raise Ends(BROKEN, f"check raised {said(error)}") from error


def main(step: str) -> None:
    asked = json.loads(sys.stdin.buffer.read())
    outgoing = os.dup(1)
    os.dup2(2, 1)  # what is printed goes to the log
    try:
        module = load(asked["source"])
        answer = observe(module) if step == "observe" else b""
        if step == "check":
            check(module, asked["seen"])
    except Ends as end:
        if end.__cause__ is not None:
            traceback.print_exception(end.__cause__, file=sys.stderr)
        print(end, file=sys.stderr, flush=True)
        os._exit(end.status)  # without what the tree may have left to do at exit
    view = memoryview(answer)
    while view:
        view = view[os.write(outgoing, view) :]
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
