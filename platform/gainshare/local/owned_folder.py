"""Temporary folders that are named after their process, so that a later one removes what a killed one left."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gainshare.local.supervision.processes import ProcessId


def make_owned_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of this process in `parent`, which other users may pass through."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    folder.chmod(0o711)
    me = ProcessId.of(os.getpid())
    (folder / "owner").write_text(f"{me.pid} {me.started_ticks}" if me else "0 0")
    return folder


def abandoned_folders(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield this user's folders in `parent` whose processes have ended."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            pid, ticks = (int(word) for word in (folder / "owner").read_text().split())
        except (OSError, ValueError):
            continue  # another process is making it now
        if not ProcessId(pid, ticks).is_alive():
            yield folder
