"""What is known when a test's own database server ends a connection: no test asks for that, so something else did."""

from pathlib import Path

import psutil

SIGNS = ("terminating connection", "server closed the connection", "the connection is lost")
LOG_BYTES = 4000
LATEST = 40


def is_told_by(failure: str) -> bool:
    return any(sign in failure for sign in SIGNS)


def described(log: Path) -> str:
    """The end of the server's log, and the processes of this machine that were started last."""
    said = log.read_bytes()[-LOG_BYTES:].decode(errors="replace") if log.exists() else "there is no log"
    return f"{said}\n\nprocesses, the latest first:\n" + "\n".join(_latest())


def _latest() -> list[str]:
    found = psutil.process_iter(["create_time", "pid", "ppid", "username", "cmdline", "name"])
    rows = sorted((process.info for process in found), key=lambda row: -(row["create_time"] or 0))
    return [
        f"{row['pid']} of {row['ppid']}, {row['username']}: {' '.join(row['cmdline'] or [row['name']])[:160]}"
        for row in rows[:LATEST]
    ]
