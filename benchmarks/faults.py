"""Named fault points: places where a test kills the process for real.

`GAINSHARE_FAULT` holds a comma list of names, `GAINSHARE_FAULT_DIR` a folder. The first process that reaches a named
point creates the marker file of that name and sends itself SIGKILL; every later pass finds the marker and continues, so
that each named fault fires exactly once, whatever restarts the process. Outside tests neither variable is set and a
fault point is one dictionary look-up.
"""

import os
import re
import signal
from pathlib import Path

FAULT_VARIABLE = "GAINSHARE_FAULT"
FOLDER_VARIABLE = "GAINSHARE_FAULT_DIR"
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


def fault_point(name: str) -> None:
    """Kill this process with SIGKILL, once, if the test asked for a fault called `name`.

    Raises ValueError for a name that could not be a marker file, RuntimeError when a fault is armed without a
    folder for its markers (it could then fire again after each restart).
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"fault point {name!r} is not a dotted lower-case name")
    armed = os.environ.get(FAULT_VARIABLE)
    if not armed or name not in {part.strip() for part in armed.split(",")}:
        return
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise RuntimeError(f"{FAULT_VARIABLE} is set without {FOLDER_VARIABLE}: a fault must fire once only")
    try:
        marker = os.open(Path(folder) / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    os.write(marker, f"{os.getpid()}\n".encode())
    os.fsync(marker)
    os.close(marker)
    os.kill(os.getpid(), signal.SIGKILL)
