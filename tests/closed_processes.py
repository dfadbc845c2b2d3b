"""A sandbox's init is not dumpable, so an ordinary user cannot read its memory and environment; root reads all."""

from pathlib import Path

from benchmarks.sandbox.isolation.interior import INNER_TARGET


def is_closed_init(pid: int) -> bool:
    """Whether `pid` is a sandbox's init that this user cannot read. Any other process that is closed is an error."""
    try:
        Path(f"/proc/{pid}/environ").open("rb").close()
    except PermissionError:
        if INNER_TARGET not in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            raise
        return True
    return False
